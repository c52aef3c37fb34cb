// The page's own script beside htmx: clocks, row selection, pop-ups, confirmations, notices.
"use strict";
(() => {
  const popup = document.getElementById("pop-up");
  const confirmation = document.getElementById("confirm");
  const notice = document.getElementById("notice");

  // Clocks. Times are shown in the browser's time zone, and durations tick.
  const twoDigits = n => String(n).padStart(2, "0");
  function tickDurations(root) {
    for (const t of root.querySelectorAll("time[data-since]")) {
      const s = Math.max(0, Math.floor((Date.now() - Date.parse(t.dateTime)) / 1000));
      t.textContent = (s >= 3600 ? Math.floor(s / 3600) + ":" : "") + twoDigits(Math.floor(s / 60) % 60) + ":" + twoDigits(s % 60);
    }
  }
  function localizeTimes(root) {
    for (const t of root.querySelectorAll("time[data-at]")) {
      const at = new Date(t.dateTime);
      const day = at.toDateString() === new Date().toDateString() ? "" : at.toLocaleDateString(undefined, {month: "short", day: "numeric"}) + " ";
      t.title = t.title || t.textContent;
      t.textContent = day + twoDigits(at.getHours()) + ":" + twoDigits(at.getMinutes()) + ":" + twoDigits(at.getSeconds());
    }
    tickDurations(root);
    enableButtons();
  }
  setInterval(() => tickDurations(document), 1000);

  // Selected rows.
  function enableButtons() {
    for (const b of document.querySelectorAll("[data-needs-picked]")) {
      b.disabled = !b.form.querySelector("input[name=id]:checked");
    }
  }
  document.addEventListener("change", e => {
    if (e.target.matches("[data-all]")) {
      for (const c of e.target.form.querySelectorAll("input[name=id]")) c.checked = e.target.checked;
    }
    enableButtons();
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
    localizeTimes(document);
    if (e.detail.target === popup) {
      if (!popup.open) popup.showModal();
      const first = popup.querySelector("input[aria-invalid=true]") || popup.querySelector("input:not([type=hidden]), a.button, button");
      if (first) first.focus();
    }
  });
  document.body.addEventListener("htmx:sseBeforeMessage", e => {
    if (e.target.dataset.tag === e.detail.lastEventId) e.preventDefault(); // the page shows this HTML already
    e.target.dataset.tag = e.detail.lastEventId;
  });
  document.body.addEventListener("htmx:sseMessage", () => localizeTimes(document));
  document.body.addEventListener("saved", () => { if (popup.open) popup.close(); });
  popup.addEventListener("close", () => popup.replaceChildren());

  // The mark that shows whether the page is live.
  function setLive(is) {
    for (const mark of document.querySelectorAll(".live")) {
      mark.classList.toggle("lost", !is);
      mark.textContent = is ? "live" : "not live: bellhop is not responding";
    }
  }
  document.body.addEventListener("htmx:sseOpen", () => setLive(true));
  document.body.addEventListener("htmx:sseError", () => setLive(false));

  // Confirmations.
  let proceed = null; // sends the request that the open question is about
  document.body.addEventListener("htmx:confirm", e => {
    if (!e.detail.question) return;
    e.preventDefault();
    document.getElementById("confirm-question").textContent = e.detail.question;
    confirmation.returnValue = "cancel";
    proceed = () => e.detail.issueRequest(true);
    confirmation.showModal();
  });
  confirmation.addEventListener("close", () => {
    if (confirmation.open) return; // the event is that of an earlier question
    if (confirmation.returnValue === "ok" && proceed) proceed();
    proceed = null;
  });

  // A click on an arrow of the ladder diagram opens its message.
  function openMessage() {
    const message = location.hash && document.getElementById(location.hash.slice(1))?.closest("details");
    if (!message) return;
    message.open = true;
    message.firstElementChild.focus();
  }
  addEventListener("hashchange", openMessage);
  openMessage();

  // Notices of failed requests. Their text is never used as markup.
  let fading;
  function showNotice(text) {
    notice.textContent = text;
    clearTimeout(fading);
    fading = setTimeout(() => { notice.textContent = ""; }, 8000);
  }
  document.body.addEventListener("htmx:responseError", e => {
    const answer = new DOMParser().parseFromString(e.detail.xhr.responseText, "text/html");
    const refusal = answer.getElementById("refusal");
    showNotice(refusal ? refusal.textContent : "Request failed: HTTP " + e.detail.xhr.status);
  });
  document.body.addEventListener("htmx:sendError", () => showNotice("bellhop is not responding."));

  localizeTimes(document);
})();
