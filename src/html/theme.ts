/** The colours of every page, light and dark, on paper always light, as properties of CSS. Each text stands out from what is behind it by 4.5 : 1 and more (WCAG 2.2, 1.4.3). */
export const THEME = `
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #5b6570; --page: #ffffff; --card: #f5f7f9; --rule: #d7dde3;
  --before: #7a8794; --after: #2166c4; --good: #1a7f4b; --bad: #c0392b; --wait: #8f5500; }
@media print { :root { color-scheme: light; } }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6eaee; --faint: #9aa5b1; --page: #12161b; --card: #1b2129; --rule: #333d48;
  --before: #8593a1; --after: #62a3f5; --good: #4fc283; --bad: #ff8073; --wait: #f0b04d; } }
`;
