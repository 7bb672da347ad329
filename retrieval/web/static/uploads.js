// A photograph from the person: chosen, dropped or pasted.

import * as api from "./api.js";
import { byId } from "./dom.js";

// begin, done(photograph), failed(text): what to do. limit(): bytes that the server takes.
export function listen({ begin, done, failed, limit }) {
  async function send(file) {
    if (file.size > limit()) {
      failed(`This file has ${(file.size / 1e6).toFixed(0)} megabytes; at most ${(limit() / 1e6).toFixed(0)} are taken here. Send a smaller copy.`);
      return;
    }
    begin();
    try {
      done(await api.upload(file));
    } catch (error) {
      failed(error.message);
    }
  }
  const first = (transfer) => [...(transfer?.files ?? [])][0];

  byId("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) send(file);
    event.target.value = ""; // the same file may be chosen again
  });
  addEventListener("paste", (event) => {
    const file = first(event.clipboardData);
    if (file) send(file);
  });
  const carries = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragover", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    byId("drop").hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) byId("drop").hidden = true;
  });
  addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    byId("drop").hidden = true;
    const file = first(event.dataTransfer);
    if (file) send(file);
  });
}
