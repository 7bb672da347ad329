"""Commands: what people type, a module a verb; arguments and printing, the work is done below."""
