import type { LookupAddress, LookupAllOptions } from 'node:dns';
import type { LookupFunction } from 'node:net';
import { type EgressPolicy, EgressRefusedError } from './egress.ts';

type Answer = (error: NodeJS.ErrnoException | null, addresses: LookupAddress[]) => void;

export type ResolveName = (hostname: string, options: LookupAllOptions, callback: Answer) => void;

/** One refused address refuses the name: a name that is both inside and outside is a trick or a mistake. */
export function guardedLookup(policy: EgressPolicy, resolve: ResolveName): LookupFunction {
  const resolveShared = sharing(resolve);
  return (hostname, options, callback) => {
    resolveShared(hostname, { ...options, all: true }, (error, addresses) => {
      if (error !== null) {
        callback(error, []);
        return;
      }
      for (const { address } of addresses) {
        const why = policy.refusal(address);
        if (why !== undefined) {
          callback(new EgressRefusedError(hostname, address, why), []);
          return;
        }
      }
      const first = addresses[0];
      if (options.all === true || first === undefined) callback(null, addresses);
      else callback(null, first.address, first.family);
    });
  };
}

// The system resolves four names at a time, for the whole process: a name whose server is slow may take one of those
// places, and not all of them with the connections that are opened to it at once.
function sharing(resolve: ResolveName): ResolveName {
  const waiting = new Map<string, Answer[]>();
  return (hostname, options, callback) => {
    const others = waiting.get(hostname);
    if (others !== undefined) {
      others.push(callback);
      return;
    }
    const all = [callback];
    waiting.set(hostname, all);
    resolve(hostname, options, (error, addresses) => {
      waiting.delete(hostname);
      for (const answer of all) answer(error, addresses);
    });
  };
}
