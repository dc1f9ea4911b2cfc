(() => {
  if (!/^zh\b/i.test(navigator.language)) return;
  const speak = () => document.querySelectorAll("[data-zh]").forEach(element => {
    element.textContent = element.dataset.zh;
    element.removeAttribute("data-zh");
  });
  document.documentElement.lang = "zh";
  speak();
  new MutationObserver(speak).observe(document.documentElement, { childList: true, subtree: true });
})();
