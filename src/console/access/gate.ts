import type { FastifyRequest } from 'fastify';
import ipaddr from 'ipaddr.js';
import type { Queryable } from '../../db/pool.ts';
import { AppError } from '../../errors.ts';
import type { Role, Visitor } from '../visitor.ts';
import { type SessionBounds, visitorOf } from './sessions.ts';

/** How the console knows who asks. */
export type Auth =
  /** Whoever reaches it, which is this machine alone. */
  | { readonly mode: 'none'; readonly roles: readonly Role[] }
  | { readonly mode: 'password'; readonly bounds: SessionBounds }
  /** A proxy in front of it has asked an identity provider, and says who it is in headers. */
  | { readonly mode: 'proxy'; readonly proxy: TrustedProxy };

interface TrustedProxy {
  /** CIDRs from which its requests come: anybody else could write the same headers. */
  readonly peers: readonly string[];
  readonly userHeader: string;
  readonly groupsHeader: string;
  /** What a group of the identity provider may do. */
  readonly rolesOf: ReadonlyMap<string, Role>;
}

const LOOPBACK_NAMES = ['localhost', '127.0.0.1', '[::1]'];

export interface Place {
  readonly host: string;
  readonly port: number;
  /** As browsers know it, where that is not where it listens: `https://console.example.com`. */
  readonly origin: string | undefined;
}

export const isLoopback = (host: string): boolean =>
  host === 'localhost' || (ipaddr.isValid(host) && ipaddr.process(host).range() === 'loopback');

/**
 * Beyond this machine, whoever reaches the console is asked who he is, over TLS.
 * @throws AppError CONSOLE_EXPOSED
 */
export function assertGuarded({ host, origin }: Place, auth: Auth): void {
  if (isLoopback(host) && origin === undefined) return;
  const where = origin ?? host;
  if (auth.mode === 'none') {
    throw new AppError(
      'CONSOLE_EXPOSED',
      `The console would answer anybody who reaches ${where}. Have people sign in with --auth password or --auth proxy, or listen on 127.0.0.1.`,
    );
  }
  if (origin === undefined || (!origin.startsWith('https://') && !isLoopback(new URL(origin).hostname))) {
    throw new AppError(
      'CONSOLE_EXPOSED',
      `Passwords and sessions would cross the network to ${where} for anybody to read. Put a proxy with TLS before it, and name it: --origin https://console.example.com.`,
    );
  }
}

/** The origins that requests may say they are for and come from. A page elsewhere that has a name point here says another. */
export function originsOf({ origin }: Place, port: number): readonly string[] {
  return origin === undefined ? LOOPBACK_NAMES.map((name) => `http://${name}:${port}`) : [new URL(origin).origin];
}

/** @throws AppError CONSOLE_FORGED */
export function assertOurHost(request: FastifyRequest, origins: readonly string[]): void {
  const host = request.headers.host ?? '';
  if (origins.some((origin) => new URL(origin).host === host || origin.endsWith(`//${host}`))) return;
  throw new AppError(
    'CONSOLE_FORGED',
    `This console is asked for under ${origins.join(' or ')} alone, and the request is for ${JSON.stringify(host)}. Give the name that people use with --origin.`,
  );
}

/** What does something comes from a page of ours: a browser says where from, and does not let a page lie. @throws AppError CONSOLE_FORGED */
export function assertOurPage(request: FastifyRequest, origins: readonly string[]): void {
  const { origin, 'sec-fetch-site': site } = request.headers;
  const isOurs = origin === undefined || origins.includes(origin);
  if (isOurs && (site === undefined || site === 'same-origin' || site === 'none')) return;
  throw new AppError(
    'CONSOLE_FORGED',
    'The form was sent from another site. Nothing was done: open the console itself, and press the button there.',
  );
}

/**
 * Who asks; undefined where he has to sign in.
 * @throws AppError CONSOLE_FORBIDDEN where a proxy says too little, or it is no proxy of ours
 */
export async function identify(
  auth: Auth,
  request: FastifyRequest,
  { db, token, isUse }: { readonly db: Queryable; readonly token: string | undefined; readonly isUse: boolean },
): Promise<Visitor | undefined> {
  switch (auth.mode) {
    case 'none':
      return { name: 'local', roles: auth.roles, knownBy: 'local' };
    case 'password':
      return token === undefined ? undefined : await visitorOf(db, token, { ...auth.bounds, isUse });
    case 'proxy':
      return behindProxy(auth.proxy, request);
  }
}

const MAX_NAME_LENGTH = 200;

function behindProxy({ peers, userHeader, groupsHeader, rolesOf }: TrustedProxy, request: FastifyRequest): Visitor {
  const peer = request.socket.remoteAddress ?? '';
  if (!ipaddr.isValid(peer) || !peers.some((cidr) => isWithin(peer, cidr))) {
    throw new AppError(
      'CONSOLE_FORBIDDEN',
      `Requests are taken from the proxy alone, and ${peer} is not among LIVENTIX_CONSOLE_PROXY (${peers.join(', ')}).`,
    );
  }
  const { headersDistinct } = request.raw;
  const [name, another] = headersDistinct[userHeader] ?? [];
  const groupsGiven = headersDistinct[groupsHeader] ?? [];
  // Two of them may be one of the browser's and one of the proxy's.
  if (
    name === undefined ||
    name === '' ||
    name.length > MAX_NAME_LENGTH ||
    another !== undefined ||
    groupsGiven.length > 1
  ) {
    throw new AppError(
      'CONSOLE_FORBIDDEN',
      `The proxy did not say who asks: it is to send one header ${userHeader}, and one ${groupsHeader}.`,
    );
  }
  const groups = (groupsGiven[0] ?? '').split(/[,;]/);
  const roles = new Set(groups.map((group) => rolesOf.get(group.trim())).filter((role) => role !== undefined));
  if (roles.size === 0) {
    throw new AppError(
      'CONSOLE_FORBIDDEN',
      `${name} is in no group that may look at the console: these may: ${[...rolesOf.keys()].join(', ')} (LIVENTIX_CONSOLE_GROUPS).`,
    );
  }
  return { name, roles: [...roles], knownBy: 'proxy' };
}

function isWithin(address: string, cidr: string): boolean {
  const [parsed, [range, bits]] = [ipaddr.process(address), ipaddr.parseCIDR(cidr)];
  return parsed.kind() === range.kind() && parsed.match(range, bits);
}
