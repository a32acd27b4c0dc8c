import { html, type Markup } from '../html/markup.ts';
import { formatCents, formatInstant, formatMoney, type Money, type View } from '../html/view.ts';
import type { Instant } from '../ledger/instants.ts';
import type { Ask } from './page.ts';
import { may, type Permission } from './visitor.ts';

/** An id that is copied with one press, where scripts run, and selected as a whole where none do. */
export const copyable = (id: string): Markup => html`<code class="id" data-copy>${id}</code>`;

/** An id that is a link to its page, and can be copied. */
export const linkedId = (href: string, id: string): Markup =>
  html`<span class="id" data-copy="${id}"><a href="${href}"><code>${id}</code></a></span>`;

export const instant = (at: Date | Instant | null, view: View, none = '–'): Markup | string =>
  at === null
    ? none
    : html`<time datetime="${at instanceof Date ? at.toISOString() : at}">${formatInstant(at, view)}</time>`;

export const money = (amount: Money, view: View): Markup =>
  html`<span class="money${amount.cents < 0n ? ' minus' : ''}">${formatMoney(amount, view)}</span>`;

/** Where the currency stands above it. */
export const cents = (amount: Omit<Money, 'currency'>, view: View): Markup =>
  html`<span class="money${amount.cents < 0n ? ' minus' : ''}">${formatCents(amount, view)}</span>`;

export type Tone = 'good' | 'bad' | 'warn' | 'plain';

/** A state in a word. What it means is in the word: colour alone tells nothing. */
export const badge = (text: string, tone: Tone = 'plain'): Markup => html`<span class="badge ${tone}">${text}</span>`;

/** Names and what they are. */
export const facts = (pairs: readonly (readonly [name: string, value: Markup | string])[]): Markup =>
  html`<dl class="facts">${pairs.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;

interface Tile {
  readonly figure: Markup | string;
  readonly what: string;
  readonly tone?: Tone;
  readonly href?: string;
}

/** The figures that a page is about. */
export const tiles = (all: readonly Tile[]): Markup =>
  html`<ul class="tiles">${all.map(({ figure, what, tone, href }) => {
    const inside = html`<strong class="${tone ?? 'plain'}">${figure}</strong> <span>${what}</span>`;
    return html`<li>${href === undefined ? inside : html`<a href="${href}">${inside}</a>`}</li>`;
  })}</ul>`;

interface Button {
  readonly action: string;
  readonly needs: Permission;
  readonly label: string;
  readonly fields?: Readonly<Record<string, string>>;
  /** Further inputs of the form. */
  readonly inside?: Markup;
}

/** A form with one button; for whoever may not, the button is there, says why, and does nothing. */
export function button(ask: Ask, { action, needs, label, fields = {}, inside }: Button): Markup {
  const isAllowed = may(ask.visitor, needs);
  const hidden = Object.entries({ _csrf: ask.csrfToken, ...fields });
  return html`<form method="post" action="${action}" class="action">
${hidden.map(([name, value]) => html`<input type="hidden" name="${name}" value="${value}">`)}
${inside ?? ''}<button type="submit"${isAllowed ? '' : html` disabled`}>${label}</button>
${isAllowed ? '' : html`<span class="faint">not with your role</span>`}
</form>`;
}
