import { Readable } from 'node:stream';
import cookies from '@fastify/cookie';
import csrf from '@fastify/csrf-protection';
import forms from '@fastify/formbody';
import helmet from '@fastify/helmet';
import limit from '@fastify/rate-limit';
import Fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  LogController,
} from 'fastify';
import type { Logger } from 'pino';
import { z } from 'zod';
import type { Pool } from '../db/pool.ts';
import { toAppError } from '../db/sqlstate.ts';
import { AppError } from '../errors.ts';
import { html } from '../html/markup.ts';
import { isZone, knownLocale } from '../html/view.ts';
import { findSaid, recordBegun, recordEnded } from './access/audit.ts';
import { type Auth, assertOurHost, assertOurPage, identify, originsOf, type Place } from './access/gate.ts';
import { serveSigningIn, sessionCookie } from './access/sign-in.ts';
import { type AssetNames, serveAssets } from './assets.ts';
import { createDownloads, type Downloads } from './downloads.ts';
import { failureOf } from './failure.ts';
import { pageText } from './layout.ts';
import type { Action, Ask, Page, Section, Sent, Shown } from './page.ts';
import { keepView, settingsForm, viewOf } from './settings.ts';
import { assertMay, type Visitor } from './visitor.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Nobody is asked who he is. */
    readonly isOpen?: boolean;
  }
  interface FastifyRequest {
    visitor: Visitor | undefined;
  }
}

export interface Surroundings {
  readonly owner: Pool;
  readonly reader: Pool;
  readonly auth: Auth;
  readonly place: Place;
  /** CIDRs of the proxies before it. */
  readonly proxies: readonly string[];
  /** As it is shown: where people see which database they look at. */
  readonly database: string;
  /** At a time: each holds a connection while it is read. */
  readonly mostDownloads: number;
  readonly log: Logger;
}

const BASE = 'http://console';
const MAX_FORM_BYTES = 64 * 1024;
const REQUEST_TIMEOUT_MS = 30_000;

/** Files of ours alone; nothing inline, nothing from elsewhere, in nobody's frame. */
const POLICY = {
  defaultSrc: ["'none'"],
  scriptSrc: ["'self'"],
  styleSrc: ["'self'"],
  imgSrc: ["'self'"],
  connectSrc: ["'self'"],
  formAction: ["'self'"],
  baseUri: ["'none'"],
  frameAncestors: ["'none'"],
};

/** The console as a server that does not listen yet: every page, every action, and who may see and do them. */
export async function createServer(
  surroundings: Surroundings,
  { pages, actions }: { readonly pages: readonly Page[]; readonly actions: readonly Action[] },
): Promise<FastifyInstance> {
  const { log, place, auth, proxies, mostDownloads } = surroundings;
  const server = Fastify({
    loggerInstance: log as FastifyBaseLogger,
    // Addresses have people's ids in them; what is done is in the audit log.
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: MAX_FORM_BYTES,
    requestTimeout: REQUEST_TIMEOUT_MS,
    // Who it is that a proxy of ours speaks for: of anybody else, the header is whatever he wrote.
    trustProxy: proxies.length === 0 ? false : [...proxies],
    // Of an address that is none, before there is a route.
    frameworkErrors: (error, request, reply) =>
      failed(frame, { error, request, reply } as Handled & { error: unknown }),
  });
  const isSecure = place.origin?.startsWith('https://') === true;
  await protect(server, isSecure);
  const assets = serveAssets(server);
  const frame = { ...surroundings, assets, downloads: createDownloads(mostDownloads) };

  server.decorateRequest('visitor', undefined);
  server.addHook('onRequest', async (request, reply) => {
    const origins = originsOf(place, request.socket.localPort ?? place.port);
    assertOurHost(request, origins);
    if (request.method !== 'GET' && request.method !== 'HEAD') assertOurPage(request, origins);
    if (request.routeOptions.config.isOpen === true) return;
    const token = request.cookies[sessionCookie(isSecure)];
    // A page that asks for itself again is not somebody who uses it.
    const isByItself = request.method === 'GET' && request.headers['hx-request'] === 'true';
    request.visitor = await identify(auth, request, { db: surroundings.owner, token, isUse: !isByItself });
    if (request.visitor !== undefined) return;
    const signIn = `/sign-in?to=${encodeURIComponent(request.url)}`;
    // Or the page would show the form as a part of itself.
    if (isByItself) return reply.header('hx-redirect', signIn).send();
    if (request.method === 'GET') return reply.redirect(signIn, 303);
    throw new AppError(
      'CONSOLE_SIGNED_OUT',
      'You are not signed in, or your session has expired. Nothing was done: sign in, and do it again.',
    );
  });
  server.setErrorHandler((error, request, reply) => failed(frame, { error, request, reply }));
  server.setNotFoundHandler((request, reply) => {
    const error = new AppError('CONSOLE_NOT_FOUND', `There is no page ${request.url.slice(0, 200)}.`);
    return failed(frame, { error, request, reply });
  });
  server.addHook('onSend', async (_request, reply, payload) => {
    // Of money, nothing stays in a browser's cache.
    if (!reply.hasHeader('cache-control')) reply.header('cache-control', 'no-store');
    reply.header('server-timing', `total;dur=${reply.elapsedTime.toFixed(1)}`);
    return payload;
  });

  server.get('/', (_request, reply) => reply.redirect('/books'));
  for (const page of pages) servePage(server, page, frame);
  for (const action of actions) serveAction(server, action, frame);
  serveSettings(server, frame, isSecure);
  if (auth.mode === 'password') serveSigningIn(server, { ...surroundings, auth, isSecure, assets });
  return server;
}

async function protect(server: FastifyInstance, isSecure: boolean): Promise<void> {
  await server.register(helmet, {
    contentSecurityPolicy: { useDefaults: false, directives: POLICY },
    strictTransportSecurity: isSecure,
    xFrameOptions: { action: 'deny' },
    referrerPolicy: { policy: 'same-origin' },
  });
  await server.register(cookies);
  await server.register(forms);
  await server.register(csrf, {
    cookieKey: isSecure ? '__Host-liventix-csrf' : 'liventix-csrf',
    cookieOpts: { path: '/', sameSite: 'lax', httpOnly: true, secure: isSecure },
  });
  await server.register(limit, { global: false });
}

interface Framed extends Surroundings {
  readonly assets: AssetNames;
  readonly downloads: Downloads;
}

interface Handled {
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
}

function servePage(server: FastifyInstance, page: Page, frame: Framed): void {
  server.get(page.path, async (request, reply) => {
    const ask = askOf({ request, reply }, frame);
    const query = judged(page.query, { ...(request.query as object), ...(request.params as object) });
    const answer = await page.show(ask, query);
    if ('text' in answer) {
      frame.downloads.begin(reply.raw);
      return await send(reply, answer, request.method === 'HEAD');
    }
    return await show(answer, { request, reply, ask, section: page.section, frame });
  });
}

async function show(
  shown: Shown,
  { request, reply, ask, section, frame }: Handled & { ask: Ask; section: Section | undefined; frame: Framed },
): Promise<FastifyReply> {
  const { event } = request.query as { event?: unknown };
  const said =
    typeof event === 'string' ? await findSaid(frame.owner, { eventId: event, actor: ask.visitor.name }) : undefined;
  return asHtml(reply, pageText(shown, { ...frame, section, ask, said }));
}

const asHtml = (reply: FastifyReply, text: string): FastifyReply => reply.type('text/html; charset=utf-8').send(text);

/** The first part is made before anything is said: what cannot be begun is told on a page. One that breaks off later breaks the download. */
async function send(
  reply: FastifyReply,
  { fileName, contentType, text }: Sent,
  isHead: boolean,
): Promise<FastifyReply> {
  const parts = text[Symbol.asyncIterator]();
  const first = await parts.next();
  async function* all() {
    if (first.done === true) return;
    yield first.value;
    yield* { [Symbol.asyncIterator]: () => parts };
  }
  reply.type(contentType).header('content-disposition', `attachment; filename="${fileName}"`);
  // Nobody reads the rest of it.
  if (isHead) return reply.send('');
  return reply.send(Readable.from(all()));
}

function askOf({ request, reply }: Handled, { reader }: Framed): Ask {
  const { visitor } = request;
  if (visitor === undefined) throw new Error('A page was asked for by nobody.');
  // What begins with two slashes names a host.
  const url = new URL(URL.canParse(request.url, BASE) ? request.url : '/', BASE);
  url.searchParams.delete('event');
  return { reader, visitor, view: viewOf(request), csrfToken: reply.generateCsrf(), url };
}

/** An empty field of a form is one that was left out. @throws AppError CONSOLE_INVALID */
function judged<T>(schema: z.ZodType<T>, given: object): T {
  const fields = Object.entries(given).map(([name, value]) => [name, value === '' ? undefined : value]);
  const result = schema.safeParse(Object.fromEntries(fields));
  if (result.success) return result.data;
  const faults = result.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`);
  throw new AppError('CONSOLE_INVALID', `${faults.join('; ')}. Correct it, and ask again.`);
}

function serveAction(server: FastifyInstance, action: Action, frame: Framed): void {
  server.post(action.path, { preHandler: server.csrfProtection }, async (request, reply) => {
    const ask = { ...askOf({ request, reply }, frame), owner: frame.owner };
    const { _csrf, ...fields } = request.body as Record<string, unknown>;
    const input = judged(action.input, { ...fields, ...(request.params as object) });
    const subject = {
      visitor: ask.visitor,
      actor: ask.visitor.name,
      address: request.ip,
      action: action.name,
      subject: action.subject(input),
      input: input as Readonly<Record<string, unknown>>,
    };
    try {
      assertMay(ask.visitor, action.needs);
    } catch (error) {
      await recordEnded(frame.owner, subject, {
        outcome: 'refused',
        message: (error as AppError).message,
        began: null,
      });
      throw error;
    }
    const began = await recordBegun(frame.owner, subject);
    const acted = await action.act(ask, input).catch(async (error) => {
      const failure = toAppError(error);
      await recordEnded(frame.owner, subject, {
        outcome: 'failed',
        message: `${failure.code}: ${failure.message}`,
        began,
      });
      throw failure;
    });
    const event = await recordEnded(frame.owner, subject, { outcome: 'done', message: acted.message, began });
    const to = new URL(acted.to, BASE);
    to.searchParams.set('event', event.toString());
    return reply.redirect(to.pathname + to.search, 303);
  });
}

const SETTINGS = z.object({
  zone: z.string().max(64).refine(isZone, 'there is no such time zone: Europe/Zurich is one'),
  locale: z
    .string()
    .max(35)
    .refine((locale) => knownLocale(locale) !== undefined, 'there is no such language: en-GB is one'),
});

function serveSettings(server: FastifyInstance, frame: Framed, isSecure: boolean): void {
  server.get('/settings', async (request, reply) => {
    const ask = askOf({ request, reply }, frame);
    const { kept } = request.query as { kept?: unknown };
    const said = kept === undefined ? '' : html`<p class="said good" role="status">Kept, in this browser.</p>`;
    const shown = { title: 'Settings', body: html`${said}${settingsForm(ask.view, ask.csrfToken)}` };
    return await show(shown, { request, reply, ask, section: undefined, frame });
  });
  server.post('/settings', { preHandler: server.csrfProtection }, async (request, reply) => {
    keepView(reply, judged(SETTINGS, request.body as object), isSecure);
    return reply.redirect('/settings?kept=yes', 303);
  });
}

function failed(frame: Framed, { error, request, reply }: Handled & { error: unknown }): FastifyReply {
  const wasAction = request.method !== 'GET' && request.method !== 'HEAD';
  const { status, title, body } = failureOf(error, { log: frame.log, wasAction });
  reply.code(status);
  const ask = request.visitor === undefined ? undefined : askOf({ request, reply }, frame);
  return asHtml(reply, pageText({ title, body }, { ...frame, section: undefined, ask }));
}
