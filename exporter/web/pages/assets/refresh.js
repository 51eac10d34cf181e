// Refreshes the parts of the page with `data-live` in place. Scroll position, focus, selection and the search
// field stay as they are.
"use strict";

const seconds = Number(document.documentElement.dataset.refresh);
const stale = document.getElementById("stale");
let isFetching = false;

function update(fresh) {
  document.title = fresh.title;
  for (const old of document.querySelectorAll("[data-live]")) {
    const now = fresh.getElementById(old.id);
    // An equal part is left alone, so that screen readers do not announce it again.
    if (!now || now.innerHTML === old.innerHTML) continue;
    // A focused link is replaced with its part: the focus moves to the new link with the same target.
    const link = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    old.replaceChildren(...now.childNodes);
    if (link) old.querySelector(`a[href="${CSS.escape(link)}"]`)?.focus({ preventScroll: true });
  }
}

// Refreshing would destroy a selection; a hidden page need not be fresh.
function isPaused() {
  return document.hidden || !document.getSelection().isCollapsed;
}

async function refresh() {
  if (isFetching || isPaused()) return;
  isFetching = true;
  try {
    const answer = await fetch(location.href, { signal: AbortSignal.timeout(seconds * 1000) });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!page.getElementById("main")) throw new Error(String(answer.status));
    // The new page has other parts: the task was forgotten, or the store stopped or started to answer. Only a
    // reload can show it.
    if (page.querySelectorAll("[data-live]").length !== document.querySelectorAll("[data-live]").length) {
      location.reload();
      return;
    }
    update(page);
    stale.textContent = "";
  } catch {
    stale.textContent ||= `Not refreshed since ${document.querySelector("#fresh time").textContent}: the exporter does not answer.`;
  } finally {
    isFetching = false;
  }
}

setInterval(refresh, seconds * 1000);
document.addEventListener("visibilitychange", refresh);
