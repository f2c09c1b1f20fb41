// Brings new numbers into the page while somebody looks at it.
"use strict";

(() => {
  const numbers = document.getElementById("queued-numbers");
  const summary = document.getElementById("queued-summary");
  const trouble = document.getElementById("queued-trouble");
  const pause = document.getElementById("queued-pause");
  const refresh = document.getElementById("queued-refresh");
  const usual = Number(numbers.dataset.seconds) * 1000;
  const longest = 60000;
  let wait = usual;
  let timer = 0;
  let isPaused = false;
  let isAsking = false;

  function isIdle() {
    return isPaused || document.hidden;
  }

  // Who has marked a text keeps it.
  function isBeingRead() {
    const selection = document.getSelection();
    return selection && !selection.isCollapsed && numbers.contains(selection.anchorNode);
  }

  function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  function show(html) {
    const page = new DOMParser().parseFromString(html, "text/html");
    const found = page.querySelector("[data-summary]");
    if (!found) throw new Error("not the numbers");
    const focused = numbers.contains(document.activeElement) ? document.activeElement : null;
    numbers.replaceChildren(...page.body.childNodes);
    if (focused) {
      const links = [...numbers.querySelectorAll("a")];
      const same = links.find((link) => focused.id ? link.id === focused.id : link.href === focused.href);
      if (same) same.focus({ preventScroll: true });
    }
    say(summary, found.dataset.summary);
  }

  async function ask(isAskedFor) {
    if (isAsking || (!isAskedFor && isBeingRead())) return;
    isAsking = true;
    try {
      const answer = await fetch(numbers.dataset.url, { headers: { Accept: "text/html" } });
      if (answer.redirected || answer.status === 403) {
        say(trouble, trouble.dataset.login);
      } else if (!answer.ok) {
        throw new Error(String(answer.status));
      } else {
        show(await answer.text());
        say(trouble, "");
      }
      wait = usual;
    } catch {
      say(trouble, trouble.dataset.lost);
      wait = Math.min(wait * 2, longest);
    } finally {
      isAsking = false;
    }
  }

  function plan() {
    clearTimeout(timer);
    if (!isIdle()) timer = setTimeout(next, wait);
  }

  async function next() {
    await ask(false);
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
    ask(true).then(plan);
  });
  document.addEventListener("visibilitychange", () => {
    if (isIdle()) plan();
    else next();
  });
  plan();
})();
