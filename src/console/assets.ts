import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { FastifyInstance } from 'fastify';
import { THEME } from '../html/theme.ts';

/** Under which path each file is served: its name has the hash of what is in it, so that a browser keeps it for ever. */
export interface AssetNames {
  readonly style: string;
  readonly script: string;
  readonly htmx: string;
  readonly icon: string;
}

const YEAR_S = 31_536_000;
const HASH_LENGTH = 12;

interface Asset {
  readonly name: string;
  readonly type: string;
  readonly text: string;
}

const ours = (file: string): string => readFileSync(new URL(`./browser/${file}`, import.meta.url), 'utf8');

/** Serves what the pages need beside themselves, from memory: there are four files. */
export function serveAssets(server: FastifyInstance): AssetNames {
  const add = ({ name, type, text }: Asset): string => {
    const hash = createHash('sha256').update(text).digest('hex').slice(0, HASH_LENGTH);
    const path = `/assets/${hash}/${name}`;
    server.get(path, { config: { isOpen: true } }, (_request, reply) =>
      reply.type(type).header('cache-control', `public, max-age=${YEAR_S}, immutable`).send(text),
    );
    return path;
  };
  const htmx = readFileSync(createRequire(import.meta.url).resolve('htmx.org/dist/htmx.min.js'), 'utf8');
  return {
    style: add({ name: 'console.css', type: 'text/css; charset=utf-8', text: THEME + ours('console.css') }),
    script: add({ name: 'console.js', type: 'text/javascript; charset=utf-8', text: ours('console.js') }),
    htmx: add({ name: 'htmx.js', type: 'text/javascript; charset=utf-8', text: htmx }),
    icon: add({ name: 'icon.svg', type: 'image/svg+xml', text: ours('icon.svg') }),
  };
}
