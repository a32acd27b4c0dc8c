import { Socket } from 'node:net';

/** The sockets of PostgreSQL connections, so that they can be broken when the server no longer says goodbye. */
export interface Sockets {
  /** For `stream` of a connection's configuration. */
  open(): Socket;
  /** Breaks the connections there are, as when one of them turned out to be silent: whoever needs one makes another. */
  breakAll(): void;
  /** Ends every connection at once, and with it whatever waits for an answer; one that is opened later ends as soon. */
  destroyAll(): void;
}

// A driver that ends a connection waits for the server to do the same; one that went silent never does, and its socket
// would keep the process alive.
export function trackSockets(): Sockets {
  const sockets = new Set<Socket>();
  let areDestroyed = false;
  const breakAll = () => {
    for (const socket of sockets) socket.destroy();
  };
  return {
    open: () => {
      const socket = new Socket();
      sockets.add(socket);
      socket.once('close', () => sockets.delete(socket));
      // Not before the driver has begun to connect it, which would revive it.
      if (areDestroyed) setImmediate(() => socket.destroy());
      return socket;
    },
    breakAll,
    destroyAll: () => {
      areDestroyed = true;
      breakAll();
    },
  };
}
