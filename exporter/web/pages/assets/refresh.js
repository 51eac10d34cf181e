// Renews what lives on the page, in place: scroll position, focus, selection and the search field stay.
"use strict";

const seconds = Number(document.documentElement.dataset.refresh);
const stale = document.getElementById("stale");
let asked = false;

function renew(fresh) {
  document.title = fresh.title;
  for (const old of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(old.id);
    if (!now || now.innerHTML === old.innerHTML) continue;
    const link = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    old.replaceChildren(...now.childNodes);
    if (link) old.querySelector(`a[href="${CSS.escape(link)}"]`)?.focus({ preventScroll: true });
  }
}

function isReading() {
  return document.hidden || !document.getSelection().isCollapsed;
}

async function refresh() {
  if (asked || isReading()) return;
  asked = true;
  try {
    const answer = await fetch(location.href, { signal: AbortSignal.timeout(seconds * 1000) });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!page.getElementById("main")) throw new Error(String(answer.status));
    // Another page than this one: the task is gone, or the store does not answer, or does again.
    if (page.querySelectorAll("[data-live]").length !== document.querySelectorAll("[data-live]").length) {
      location.reload();
      return;
    }
    renew(page);
    stale.textContent = "";
  } catch {
    stale.textContent ||= `Not refreshed since ${document.querySelector("#fresh time").textContent}: the exporter does not answer.`;
  } finally {
    asked = false;
  }
}

setInterval(refresh, seconds * 1000);
document.addEventListener("visibilitychange", refresh);
