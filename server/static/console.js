// What htmx leaves to the page: a server that does not answer is said aloud, and a form that is being sent cannot be sent again.
(() => {
  "use strict";
  const note = (text) => {
    const box = document.getElementById("offline");
    box.textContent = text;
    box.hidden = !text;
  };
  addEventListener("htmx:sendError", () => note("The server does not answer. What is shown may be old; it is asked again."));
  addEventListener("htmx:timeout", () => note("The server did not answer in time."));
  addEventListener("htmx:afterOnLoad", () => note(""));
  addEventListener("htmx:beforeRequest", (event) => event.target.setAttribute("aria-busy", "true"));
  addEventListener("htmx:afterRequest", (event) => event.target.removeAttribute("aria-busy"));
})();
