// What the page does beside htmx: pop-ups, confirmations, clocks, copying.
"use strict";
(() => {
  const popup = document.getElementById("pop-up");
  const confirmation = document.getElementById("confirm");
  const notice = document.getElementById("notice");

  // Clocks. Times are shown as they are here, and durations tick.
  const two = n => String(n).padStart(2, "0");
  function tick(root) {
    for (const t of root.querySelectorAll("time[data-since]")) {
      const s = Math.max(0, Math.floor((Date.now() - Date.parse(t.dateTime)) / 1000));
      t.textContent = (s >= 3600 ? Math.floor(s / 3600) + ":" : "") + two(Math.floor(s / 60) % 60) + ":" + two(s % 60);
    }
  }
  function localize(root) {
    for (const t of root.querySelectorAll("time[data-at]")) {
      const at = new Date(t.dateTime);
      const day = at.toDateString() === new Date().toDateString() ? "" : at.toLocaleDateString(undefined, {month: "short", day: "numeric"}) + " ";
      t.title = t.title || t.textContent;
      t.textContent = day + two(at.getHours()) + ":" + two(at.getMinutes()) + ":" + two(at.getSeconds());
    }
    tick(root);
    picked();
  }
  setInterval(() => tick(document), 1000);

  // Selected rows.
  function picked() {
    for (const b of document.querySelectorAll("[data-needs-picked]")) {
      b.disabled = !b.form.querySelector("input[name=id]:checked");
    }
  }
  document.addEventListener("change", e => {
    if (e.target.matches("[data-all]")) {
      for (const c of e.target.form.querySelectorAll("input[name=id]")) c.checked = e.target.checked;
    }
    picked();
  });

  // Pop-ups.
  document.addEventListener("click", async e => {
    if (e.target.closest("[data-close]")) popup.close();
    const copy = e.target.closest("[data-copy]");
    if (!copy) return;
    const code = copy.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      copy.textContent = "Press Ctrl-C";
    }
    setTimeout(() => { copy.textContent = "Copy"; }, 2000);
  });
  document.body.addEventListener("htmx:afterSettle", e => {
    localize(document);
    if (e.detail.target === popup) {
      if (!popup.open) popup.showModal();
      const first = popup.querySelector("input[aria-invalid=true]") || popup.querySelector("input:not([type=hidden]), a.button, button");
      if (first) first.focus();
    }
  });
  document.body.addEventListener("htmx:sseBeforeMessage", e => {
    if (e.target.dataset.tag === e.detail.lastEventId) e.preventDefault(); // it is shown already
    e.target.dataset.tag = e.detail.lastEventId;
  });
  document.body.addEventListener("htmx:sseMessage", () => localize(document));
  document.body.addEventListener("saved", () => { if (popup.open) popup.close(); });
  popup.addEventListener("close", () => popup.replaceChildren());

  // Whether what is shown is live.
  function live(is) {
    for (const mark of document.querySelectorAll(".live")) {
      mark.classList.toggle("lost", !is);
      mark.textContent = is ? "live" : "not live: bellhop is not responding";
    }
  }
  document.body.addEventListener("htmx:sseOpen", () => live(true));
  document.body.addEventListener("htmx:sseError", () => live(false));

  // Confirmations.
  let proceed = null; // with what the open question is about
  document.body.addEventListener("htmx:confirm", e => {
    if (!e.detail.question) return;
    e.preventDefault();
    document.getElementById("confirm-question").textContent = e.detail.question;
    confirmation.returnValue = "cancel";
    proceed = () => e.detail.issueRequest(true);
    confirmation.showModal();
  });
  confirmation.addEventListener("close", () => {
    if (confirmation.open) return; // that was the question before
    if (confirmation.returnValue === "ok" && proceed) proceed();
    proceed = null;
  });

  // A message that its arrow in the ladder leads to is open.
  function reveal() {
    const message = location.hash && document.getElementById(location.hash.slice(1))?.closest("details");
    if (!message) return;
    message.open = true;
    message.firstElementChild.focus();
  }
  addEventListener("hashchange", reveal);
  reveal();

  // What went wrong. Text is never taken for markup.
  let fading;
  function say(text) {
    notice.textContent = text;
    clearTimeout(fading);
    fading = setTimeout(() => { notice.textContent = ""; }, 8000);
  }
  document.body.addEventListener("htmx:responseError", e => {
    const answer = new DOMParser().parseFromString(e.detail.xhr.responseText, "text/html");
    const refusal = answer.getElementById("refusal");
    say(refusal ? refusal.textContent : "Request failed: HTTP " + e.detail.xhr.status);
  });
  document.body.addEventListener("htmx:sendError", () => say("bellhop is not responding."));

  localize(document);
})();
