// A row that is pointed at, touched or focused lights the source words as far as it looks at them.
const light = row => element.querySelectorAll('thead th').forEach((head, i) => {
  const weight = row ? row.cells[i + 1].style.getPropertyValue('--w') : 0;
  head.style.setProperty('--lit', weight);
  head.classList.toggle('lit', weight >= 0.62);
});
const rowOf = event => event.target.closest('.weights tr');
for (const kind of ['pointerover', 'focusin']) element.addEventListener(kind, e => light(rowOf(e)));
element.addEventListener('pointerleave', e => e.pointerType === 'mouse' && light(null));
element.addEventListener('focusout', () => light(null));
