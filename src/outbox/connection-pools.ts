import { Client, type Dispatcher, errors, Pool } from 'undici';

export interface ConnectionPools {
  /** Over a connection to the request's origin that is kept, or a new one. */
  dispatch(request: Dispatcher.DispatchOptions & { origin: string }, handler: Dispatcher.DispatchHandler): void;
  /** Over a new connection that is closed afterwards. */
  dispatchAlone(request: Dispatcher.DispatchOptions & { origin: string }, handler: Dispatcher.DispatchHandler): void;
  /** Breaks off what is under way. */
  destroy(): Promise<void>;
}

/**
 * A pool per origin, of which `maxOrigins` are kept: beyond that the one that was used least recently goes, with its idle
 * connections. Those with a request under way stay. undici's own Agent refuses new origins instead.
 */
export function createConnectionPools(
  options: Client.Options,
  { maxOrigins, perOrigin }: { maxOrigins: number; perOrigin: number },
): ConnectionPools {
  // In order of use.
  const pools = new Map<string, Pool>();
  const alone = new Set<Client>();
  let isDestroyed = false;

  const makeRoom = () => {
    for (const [origin, pool] of pools) {
      if (pools.size < maxOrigins) return;
      if (pool.stats.size > 0) continue;
      pools.delete(origin);
      void pool.destroy();
    }
  };

  const poolOf = (origin: string): Pool => {
    const kept = pools.get(origin);
    if (kept === undefined) makeRoom();
    const pool = kept ?? new Pool(origin, { ...options, connections: perOrigin });
    pools.delete(origin);
    pools.set(origin, pool);
    return pool;
  };

  return {
    dispatch: (request, handler) => {
      if (isDestroyed) throw new errors.ClientDestroyedError();
      poolOf(request.origin).dispatch(request, handler);
    },
    dispatchAlone: (request, handler) => {
      if (isDestroyed) throw new errors.ClientDestroyedError();
      const client = new Client(request.origin, options);
      alone.add(client);
      client.dispatch({ ...request, reset: true }, handler);
      void client.close().then(() => alone.delete(client));
    },
    destroy: async () => {
      isDestroyed = true;
      await Promise.all([...pools.values(), ...alone].map((dispatcher) => dispatcher.destroy()));
      pools.clear();
    },
  };
}
