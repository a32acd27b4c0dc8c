import type { LookupFunction } from 'node:net';
import { type EgressPolicy, EgressRefusedError } from './egress.ts';
import { fairLookups, type ResolveName } from './name-lookups.ts';

/** One refused address refuses the name: a name that is both inside and outside is a trick or a mistake. */
export function guardedLookup(policy: EgressPolicy, resolve: ResolveName): LookupFunction {
  const resolveFairly = fairLookups(resolve);
  return (hostname, options, callback) => {
    resolveFairly(hostname, { ...options, all: true }, (error, addresses) => {
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
