import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';

export interface WeakLink {
  /** The same URL, by way of the link. */
  readonly url: string;
  /** How many connections it has let through or turned away. */
  connections(): number;
  /** From now on connections that are open carry nothing, and nobody is told; new ones work. */
  silenceOpen(): void;
  /** Nothing gets through, and nobody is told: as behind a machine that lost its power. */
  silence(): void;
  /** Breaks every connection and turns new ones away. */
  cut(): void;
  /** New connections work again. */
  mend(): void;
  close(): Promise<void>;
}

/** A way to a server of the test's that can be cut or fall silent. */
export async function weakLink(serverUrl: string): Promise<WeakLink> {
  const target = new URL(serverUrl);
  const open = new Set<Socket>();
  let state: 'works' | 'silent' | 'cut' = 'works';
  let connections = 0;
  const server = createServer((near) => {
    connections += 1;
    open.add(near);
    near.on('error', () => undefined).on('close', () => open.delete(near));
    if (state === 'cut') near.destroy();
    if (state !== 'works') return;
    const far = connect(Number(target.port), target.hostname);
    open.add(far);
    far.on('error', () => near.destroy()).on('close', () => open.delete(far));
    near.pipe(far).pipe(near);
    near.on('close', () => far.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const url = Object.assign(new URL(serverUrl), {
    host: `127.0.0.1:${typeof address === 'object' ? address?.port : ''}`,
  }).href;
  const silenceOpen = () => {
    for (const socket of open) socket.unpipe().pause();
  };
  const breakAll = () => {
    for (const socket of open) socket.destroy();
  };
  return {
    url,
    connections: () => connections,
    silenceOpen,
    silence: () => {
      state = 'silent';
      silenceOpen();
    },
    cut: () => {
      state = 'cut';
      breakAll();
    },
    mend: () => {
      state = 'works';
    },
    close: async () => {
      breakAll();
      server.close();
      await once(server, 'close');
    },
  };
}
