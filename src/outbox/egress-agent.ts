import { lookup } from 'node:dns';
import { buildConnector, type Client } from 'undici';
import { type ConnectionPools, createConnectionPools } from './connection-pools.ts';
import { type EgressPolicy, EgressRefusedError, literalAddress } from './egress.ts';
import { guardedLookup } from './guarded-lookup.ts';
import type { ResolveName } from './name-lookups.ts';

/** Where webhooks leave from: it connects to permitted addresses and to nothing else. */
export interface EgressAgent extends Pick<ConnectionPools, 'dispatch' | 'dispatchAlone'> {
  /** Whether a connection is just being given the request that it was made for. */
  isOpening(): boolean;
  /** The address that the last connection to the URL's origin reached. */
  addressOf(url: URL): string | undefined;
  close(): Promise<void>;
}

const CONNECT_TIMEOUT_MS = 10_000;
/** undici's default is whatever Node was started with. */
const MAX_RESPONSE_HEADER_BYTES = 16 * 1024;
/** The longest that a server's `keep-alive: timeout=…` is listened to. */
const KEEP_ALIVE_MAX_MS = 60_000;
/** Of an origin that is not used undici closes the connections after 4 s, unless the server asked for more. */
const MAX_ORIGINS = 1_000;
/**
 * As many as a worker has requests on their way, permits and slow ones, at most: what is sent to an endpoint at once is bounded by its
 * places, and one that hangs must not take the connections from another at the same origin.
 */
const MAX_PER_ORIGIN = 3_000;
const MAX_REMEMBERED_ORIGINS = 10_000;

/**
 * Every address is judged where it is used: a literal before connecting, because no lookup is made for one; each address
 * of a name in the very lookup that the socket then connects by, so nothing can change in between; and at last the
 * address that the socket reached. Connections of its own, so no proxy from the environment comes between.
 */
export function createEgressAgent(
  policy: EgressPolicy,
  {
    resolve = lookup,
    maxOrigins = MAX_ORIGINS,
    perOrigin = MAX_PER_ORIGIN,
  }: { resolve?: ResolveName; maxOrigins?: number; perOrigin?: number } = {},
): EgressAgent {
  const addresses = new Map<string, string>();
  const connect = buildConnector({
    timeout: CONNECT_TIMEOUT_MS,
    lookup: guardedLookup(policy, resolve),
    // Said, because otherwise NODE_TLS_REJECT_UNAUTHORIZED=0 would be listened to.
    rejectUnauthorized: true,
  } as object);
  let isOpening = false;
  const pools = createConnectionPools(
    {
      pipelining: 1,
      maxHeaderSize: MAX_RESPONSE_HEADER_BYTES,
      keepAliveMaxTimeout: KEEP_ALIVE_MAX_MS,
      // The attempt's own deadline covers both.
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: (options: buildConnector.Options, callback: buildConnector.Callback) => {
        const origin = new URL(`${options.protocol}//${options.host ?? options.hostname}`);
        const literal = literalAddress(origin);
        const why = literal === undefined ? undefined : policy.refusal(literal);
        if (literal !== undefined && why !== undefined) {
          callback(new EgressRefusedError(origin.hostname, literal, why), null);
          return;
        }
        connect(options, (error, socket) => {
          if (error !== null) {
            callback(error, null);
            return;
          }
          const reached = socket.remoteAddress ?? 'an unknown address';
          const refusal = policy.refusal(reached);
          if (refusal !== undefined) {
            socket.destroy();
            callback(new EgressRefusedError(origin.hostname, reached, refusal), null);
            return;
          }
          if (addresses.size >= MAX_REMEMBERED_ORIGINS) addresses.clear();
          addresses.set(origin.origin, reached);
          // undici sends what waits for the connection before this returns: whatever begins later finds it used, or idle.
          isOpening = true;
          callback(null, socket);
          isOpening = false;
        });
      },
    } satisfies Client.Options,
    { maxOrigins, perOrigin },
  );
  return {
    ...pools,
    isOpening: () => isOpening,
    addressOf: (url) => addresses.get(url.origin),
    close: () => pools.destroy(),
  };
}
