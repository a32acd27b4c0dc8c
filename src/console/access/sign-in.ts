import type { FastifyInstance, FastifyReply } from 'fastify';
import { z } from 'zod';
import { isStorableText } from '../../db/json-value.ts';
import type { Pool } from '../../db/pool.ts';
import { html, type Markup } from '../../html/markup.ts';
import type { AssetNames } from '../assets.ts';
import { pageText } from '../layout.ts';
import { type AuditSubject, recordEnded } from './audit.ts';
import type { Auth } from './gate.ts';
import { MAX_PASSWORD_LENGTH } from './passwords.ts';
import { signIn, signOut } from './sessions.ts';
import { isUser } from './users.ts';

const TRIES_A_MINUTE = 10;
const MAX_NAME_LENGTH = 100;

/** Where TLS is, a name that no other host can set a cookie for. */
export const sessionCookie = (isSecure: boolean): string => (isSecure ? '__Host-liventix' : 'liventix');

interface SigningIn {
  readonly owner: Pool;
  readonly auth: Extract<Auth, { mode: 'password' }>;
  readonly database: string;
  readonly isSecure: boolean;
  readonly assets: AssetNames;
}

const FORM = z.object({
  name: z.string().max(MAX_NAME_LENGTH).refine(isStorableText).catch(''),
  password: z.string().max(MAX_PASSWORD_LENGTH).catch(''),
  to: z.string().catch('/'),
});

/** Signing in and out. Every try is in the audit log. */
export function serveSigningIn(server: FastifyInstance, { owner, auth, database, isSecure, assets }: SigningIn): void {
  const cookie = { path: '/', sameSite: 'lax', httpOnly: true, secure: isSecure } as const;
  const page = (reply: FastifyReply, given: { to: string; fault?: string }) => {
    const body = signInForm({ ...given, csrfToken: reply.generateCsrf() });
    return reply
      .type('text/html; charset=utf-8')
      .send(pageText({ title: 'Sign in', body }, { assets, database, section: undefined, ask: undefined }));
  };
  const tried = (name: string, address: string): AuditSubject => ({
    visitor: undefined,
    actor: name,
    address,
    action: 'sign in',
    subject: null,
    input: {},
  });

  server.get('/sign-in', { config: { isOpen: true } }, (request, reply) =>
    page(reply, { to: ourPath((request.query as { to?: unknown }).to) }),
  );

  server.post(
    '/sign-in',
    {
      config: { isOpen: true, rateLimit: { max: TRIES_A_MINUTE, timeWindow: '1 minute' } },
      preHandler: server.csrfProtection,
    },
    async (request, reply) => {
      const { name, password, to } = FORM.parse(request.body ?? {});
      const token = await signIn(owner, { name, password }, auth.bounds);
      // What is no user's name may be a password in the wrong field: it is not kept.
      const subject = tried((await isUser(owner, name)) ? name : 'nobody', request.ip);
      if (token === undefined) {
        const fault = 'Name and password do not belong together, or the user is disabled.';
        await recordEnded(owner, subject, { outcome: 'refused', message: fault, began: null });
        return page(reply.code(401), { to: ourPath(to), fault });
      }
      await recordEnded(owner, subject, { outcome: 'done', message: 'Signed in.', began: null });
      return reply
        .setCookie(sessionCookie(isSecure), token, { ...cookie, maxAge: auth.bounds.longestMinutes * 60 })
        .redirect(ourPath(to), 303);
    },
  );

  server.post('/sign-out', { preHandler: server.csrfProtection }, async (request, reply) => {
    const { visitor, cookies, ip } = request;
    await signOut(owner, cookies[sessionCookie(isSecure)] ?? '');
    const subject = { ...tried(visitor?.name ?? '', ip), visitor, action: 'sign out' };
    await recordEnded(owner, subject, { outcome: 'done', message: 'Signed out.', began: null });
    return reply.clearCookie(sessionCookie(isSecure), cookie).redirect('/sign-in', 303);
  });
}

/** A path of this console, and of nothing else: an address that somebody was sent may say to go anywhere afterwards. */
function ourPath(to: unknown): string {
  if (typeof to !== 'string' || !URL.canParse(to, 'http://console')) return '/';
  const { host, pathname, search } = new URL(to, 'http://console');
  // What was resolved may begin with two slashes, which name a host.
  return to.startsWith('/') && host === 'console' && !pathname.startsWith('//') ? pathname + search : '/';
}

const signInForm = ({ to, fault, csrfToken }: { to: string; fault?: string; csrfToken: string }): Markup =>
  html`${fault === undefined ? '' : html`<p class="said bad" role="alert">${fault}</p>`}
<form method="post" action="/sign-in" class="filter">
<input type="hidden" name="_csrf" value="${csrfToken}"><input type="hidden" name="to" value="${to}">
<label>Name <input name="name" required autocomplete="username" autofocus></label>
<label>Password <input name="password" type="password" required autocomplete="current-password"></label>
<button type="submit">Sign in</button>
</form>`;
