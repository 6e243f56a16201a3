// What htmx leaves to the page: a server that does not answer or refuses is said aloud and takes nothing off the page that asks again by
// itself, and a form that is being sent cannot be sent again.
(() => {
  "use strict";
  const note = (text) => {
    const box = document.getElementById("offline");
    box.textContent = text;
    box.hidden = !text;
  };
  addEventListener("htmx:sendError", () => note("The server does not answer. What is shown may be old; it is asked again."));
  addEventListener("htmx:timeout", () => note("The server did not answer in time."));
  const failed = ({ xhr, requestConfig }) => xhr.status >= 400 && requestConfig.verb === "get";
  addEventListener("htmx:beforeSwap", (event) => {
    if (failed(event.detail)) event.detail.shouldSwap = false;
  });
  addEventListener("htmx:afterOnLoad", ({ detail }) =>
    note(failed(detail) ? `The server does not tell it now (${detail.xhr.status}). What is shown may be old; it is asked again.` : ""));
  addEventListener("htmx:beforeRequest", (event) => event.target.setAttribute("aria-busy", "true"));
  addEventListener("htmx:afterRequest", (event) => event.target.removeAttribute("aria-busy"));
})();
