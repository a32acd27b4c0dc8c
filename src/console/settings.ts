import type { FastifyReply, FastifyRequest } from 'fastify';
import { html, type Markup } from '../html/markup.ts';
import { isZone, knownLocale, type View } from '../html/view.ts';

const COOKIE = 'liventix-view';
const YEAR_S = 31_536_000;
const FALLBACK: View = { zone: 'UTC', locale: 'en-GB' };

/** How this browser wants figures and times: as it was told, else in its own language and UTC. */
export function viewOf(request: FastifyRequest): View {
  const [zone = '', locale = ''] = (request.cookies[COOKIE] ?? '').split('|');
  return {
    zone: isZone(zone) ? zone : FALLBACK.zone,
    locale: knownLocale(locale) ?? preferredLocale(request.headers['accept-language']) ?? FALLBACK.locale,
  };
}

function preferredLocale(accepted: string | undefined): string | undefined {
  for (const part of (accepted ?? '').split(',', 10)) {
    const locale = knownLocale(part.split(';', 1)[0]?.trim() ?? '');
    if (locale !== undefined) return locale;
  }
  return undefined;
}

export function keepView(reply: FastifyReply, { zone, locale }: View, isSecure: boolean): void {
  reply.setCookie(COOKIE, `${zone}|${locale}`, {
    path: '/',
    maxAge: YEAR_S,
    sameSite: 'lax',
    httpOnly: true,
    secure: isSecure,
  });
}

export const settingsForm = (view: View, csrfToken: string): Markup =>
  html`<form method="post" action="/settings" class="filter">
<input type="hidden" name="_csrf" value="${csrfToken}">
<label>Time zone <input name="zone" list="zones" value="${view.zone}" required maxlength="64" autocomplete="off"></label>
<datalist id="zones">${['UTC', ...Intl.supportedValuesOf('timeZone')].map((zone) => html`<option value="${zone}"></option>`)}</datalist>
<label>Figures and dates as in <input name="locale" value="${view.locale}" required maxlength="35" autocomplete="off" aria-describedby="locale-help"></label>
<button type="submit">Keep</button>
</form>
<p class="faint" id="locale-help">A language and country such as en-GB, de-DE, fr-CH or ja-JP.</p>`;
