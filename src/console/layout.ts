import { html, type Markup } from '../html/markup.ts';
import type { AssetNames } from './assets.ts';
import { type Ask, SECTIONS, type Section, type Shown } from './page.ts';

/** What came of the action that led here. */
interface Said {
  readonly message: string;
  readonly isDone: boolean;
}

interface Frame {
  readonly assets: AssetNames;
  readonly section: Section | undefined;
  /** Undefined where nobody is signed in. */
  readonly ask: Pick<Ask, 'visitor' | 'view' | 'csrfToken'> | undefined;
  readonly database: string;
  readonly said?: Said | undefined;
}

const NO_EVAL = '{"includeIndicatorCSS":false}';

/** A whole page. Every script and style is a file of ours; without scripts a page that changes is loaded anew. */
export function pageText({ title, body, refreshSeconds }: Shown, frame: Frame): string {
  const { assets, said } = frame;
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="htmx-config" content="${NO_EVAL}">
<title>${title} · Liventix</title>
<link rel="icon" href="${assets.icon}" type="image/svg+xml">
<link rel="stylesheet" href="${assets.style}">
<script src="${assets.script}"></script>
${refreshSeconds === undefined ? '' : refreshing(refreshSeconds, assets)}
</head>
<body>
<a class="skip" href="#main">To the content</a>
${header(frame)}
<main id="main" tabindex="-1">
<h1>${title}</h1>
${said === undefined ? '' : html`<p class="said ${said.isDone ? 'good' : 'bad'}" role="status">${said.message}</p>`}
${refreshSeconds === undefined ? body : liveOf(body, refreshSeconds)}
</main>
</body>
</html>
`.text;
}

const refreshing = (seconds: number, { htmx }: AssetNames): Markup =>
  html`<script src="${htmx}" defer></script><noscript><meta http-equiv="refresh" content="${seconds}"></noscript>`;

// It asks for its own page, and takes of it what is called like itself. When that is no longer live, it stops.
const liveOf = (body: Markup, seconds: number): Markup =>
  html`<div id="live" hx-get="" hx-trigger="every ${seconds}s" hx-select="#live, main > :not(h1):not(.said)" hx-swap="outerHTML">${body}</div>`;

function header({ section, ask, database }: Frame): Markup {
  if (ask === undefined) return html`<header class="top"><span class="brand">Liventix</span></header>`;
  const { visitor } = ask;
  return html`<header class="top">
<a class="brand" href="/">Liventix</a> <span class="faint database" title="The database that is looked at">${database}</span>
<nav aria-label="Sections"><ul>${Object.entries(SECTIONS).map(
    ([name, title]) =>
      html`<li><a href="/${name}"${name === section ? html` aria-current="page"` : ''}>${title}</a></li>`,
  )}</ul></nav>
<div class="who"><a href="/settings" title="${`Times in ${ask.view.zone}, figures as in ${ask.view.locale}`}">Settings</a> <span title="${visitor.roles.join(', ')}">${visitor.name}</span>${
    visitor.knownBy === 'password'
      ? html` <form method="post" action="/sign-out"><input type="hidden" name="_csrf" value="${ask.csrfToken}"><button type="submit" class="plain">Sign out</button></form>`
      : ''
  }</div>
</header>`;
}
