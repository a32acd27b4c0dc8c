import { type LookupAddress, lookup as resolveName } from 'node:dns';
import type { LookupFunction } from 'node:net';
import { Agent, buildConnector } from 'undici';
import { type EgressPolicy, literalAddress } from './egress.ts';

/** Where webhooks leave from: an undici agent that connects to permitted addresses and to nothing else. */
export interface EgressAgent {
  readonly dispatcher: Agent;
  /** The address that the last connection to the URL's origin reached. */
  addressOf(url: URL): string | undefined;
  close(): Promise<void>;
}

/** The address was refused before anything was sent. */
export class EgressRefusedError extends Error {
  override readonly name = 'EgressRefusedError';
  readonly address: string;

  constructor(host: string, address: string) {
    super(`${host} is at ${address}, which is not a public address and not in OUTBOX_EGRESS_ALLOW`);
    this.address = address;
  }
}

const CONNECT_TIMEOUT_MS = 10_000;
const CONNECTIONS_PER_ORIGIN = 128;
const MAX_REMEMBERED_ORIGINS = 10_000;

/**
 * Every address is judged where it is used: a literal before connecting, because no lookup is made for one; each address
 * of a name in the very lookup that the socket then connects by, so nothing can change in between; and at last the
 * address that the socket reached. An agent of its own, so no proxy from the environment comes between.
 */
export function createEgressAgent(policy: EgressPolicy): EgressAgent {
  const addresses = new Map<string, string>();
  const connect = buildConnector({ timeout: CONNECT_TIMEOUT_MS, lookup: guardedLookup(policy) } as object);
  const dispatcher = new Agent({
    connections: CONNECTIONS_PER_ORIGIN,
    pipelining: 1,
    // The attempt's own deadline covers both.
    headersTimeout: 0,
    bodyTimeout: 0,
    connect: (options, callback) => {
      const origin = new URL(`${options.protocol}//${options.host ?? options.hostname}`);
      const literal = literalAddress(origin);
      if (literal !== undefined && !policy.permits(literal)) {
        callback(new EgressRefusedError(origin.hostname, literal), null);
        return;
      }
      connect(options, (error, socket) => {
        if (error !== null) {
          callback(error, null);
          return;
        }
        const reached = socket.remoteAddress ?? 'an unknown address';
        if (!policy.permits(reached)) {
          socket.destroy();
          callback(new EgressRefusedError(origin.hostname, reached), null);
          return;
        }
        if (addresses.size >= MAX_REMEMBERED_ORIGINS) addresses.clear();
        addresses.set(origin.origin, reached);
        callback(null, socket);
      });
    },
  });
  return {
    dispatcher,
    addressOf: (url) => addresses.get(url.origin),
    close: () => dispatcher.destroy(),
  };
}

// One refused address refuses the name: a name that is both inside and outside is a trick or a mistake.
function guardedLookup(policy: EgressPolicy): LookupFunction {
  return (hostname, options, callback) => {
    resolveName(hostname, { ...options, all: true }, (error, addresses: LookupAddress[]) => {
      if (error !== null) {
        callback(error, []);
        return;
      }
      const refused = addresses.find(({ address }) => !policy.permits(address));
      const first = addresses[0];
      if (refused !== undefined) callback(new EgressRefusedError(hostname, refused.address), []);
      else if (options.all === true || first === undefined) callback(null, addresses);
      else callback(null, first.address, first.family);
    });
  };
}
