// What a page gains where scripts run: ids that are copied with one press. Everything else works without.
const COPIED_MS = 1_500;

function addCopying(root) {
  for (const element of root.querySelectorAll('[data-copy]:not([data-copying])')) {
    element.dataset.copying = '';
    const id = element.dataset.copy === '' ? element.textContent : element.dataset.copy;
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'copy';
    button.setAttribute('aria-label', `Copy ${id}`);
    button.addEventListener('click', async () => {
      await navigator.clipboard.writeText(id);
      button.dataset.copied = '';
      setTimeout(() => delete button.dataset.copied, COPIED_MS);
    });
    element.append(button);
  }
}

document.addEventListener('DOMContentLoaded', () => addCopying(document));
document.addEventListener('htmx:after:swap', () => addCopying(document));
