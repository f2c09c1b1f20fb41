// Updates the numbers while the page is visible.
"use strict";

(() => {
  const numbers = document.getElementById("queued-numbers");
  const summary = document.getElementById("queued-summary");
  const trouble = document.getElementById("queued-trouble");
  const pause = document.getElementById("queued-pause");
  const refresh = document.getElementById("queued-refresh");
  const interval = Number(numbers.dataset.seconds) * 1000;
  const longestWait = 60000;
  let wait = interval;
  let timer = 0;
  let isPaused = false;
  let isRequesting = false;

  function isStopped() {
    return isPaused || document.hidden;
  }

  // An update would undo the selection.
  function hasSelection() {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && numbers.contains(selection.anchorNode);
  }

  function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function show(html) {
    const page = new DOMParser().parseFromString(html, "text/html");
    const found = page.querySelector("[data-summary]");
    if (!found) throw new Error("unexpected response");
    const focused = numbers.contains(document.activeElement) ? document.activeElement : null;
    numbers.replaceChildren(...page.body.childNodes);
    if (focused) {
      const links = [...numbers.querySelectorAll("a, button")];
      const same = links.find((link) => focused.id ? link.id === focused.id : link.href === focused.href);
      if (same) same.focus({ preventScroll: true });
    }
    setText(summary, found.dataset.summary);
  }

  async function update(isForced) {
    if (isRequesting || (!isForced && hasSelection())) return;
    isRequesting = true;
    try {
      const response = await fetch(numbers.dataset.url, { headers: { Accept: "text/html" } });
      if (response.redirected || response.status === 403) {
        setText(trouble, trouble.dataset.login);
      } else if (!response.ok) {
        throw new Error(String(response.status));
      } else {
        show(await response.text());
        setText(trouble, "");
      }
      wait = interval;
    } catch {
      setText(trouble, trouble.dataset.lost);
      wait = Math.min(wait * 2, longestWait);
    } finally {
      isRequesting = false;
    }
  }

  function plan() {
    clearTimeout(timer);
    if (!isStopped()) timer = setTimeout(next, wait);
  }

  async function next() {
    await update(false);
    plan();
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.textContent = isPaused ? pause.dataset.resume : pause.dataset.pause;
    if (isPaused) plan();
    else next();
  });
  refresh.addEventListener("click", (event) => {
    event.preventDefault();
    update(true).then(plan);
  });
  document.addEventListener("visibilitychange", () => {
    if (isStopped()) plan();
    else next();
  });
  plan();
})();
