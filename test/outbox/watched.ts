import { freePort } from '../../src/db/server.ts';

/** What a worker answers on its address; undefined where nobody answers within a second. */
export interface Watched {
  readonly address: string;
  get(path: string): Promise<{ readonly statusCode: number; readonly text: string } | undefined>;
  /** Status code and body of /livez or /readyz. */
  probe(path: '/livez' | '/readyz'): Promise<{ statusCode: number; body: Record<string, unknown> } | undefined>;
  /** The samples of /metrics, by their name and labels as they are written there. */
  metrics(): Promise<ReadonlyMap<string, number>>;
}

const ANSWER_MS = 1_000;
const SCRAPE_MS = 10_000;
const SAMPLE =
  /^([a-zA-Z_:][a-zA-Z0-9_:]*(?:\{(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\.)*",?)*\})?) (-?[0-9.e+-]+|[+-]Inf|NaN)$/;
const COMMENT = /^# (HELP|TYPE) [a-zA-Z_:][a-zA-Z0-9_:]* .+$/;

export async function watchedAt(): Promise<Watched> {
  const address = `127.0.0.1:${await freePort()}`;
  const get = async (path: string, timeoutMs = ANSWER_MS) => {
    try {
      const response = await fetch(`http://${address}${path}`, { signal: AbortSignal.timeout(timeoutMs) });
      return { statusCode: response.status, text: await response.text() };
    } catch {
      return undefined;
    }
  };
  return {
    address,
    get,
    probe: async (path) => {
      const answer = await get(path);
      return answer === undefined ? undefined : { statusCode: answer.statusCode, body: JSON.parse(answer.text) };
    },
    metrics: async () => parseMetrics((await get('/metrics', SCRAPE_MS))?.text ?? ''),
  };
}

/** @throws what is not Prometheus' text format, https://prometheus.io/docs/instrumenting/exposition_formats */
function parseMetrics(text: string): ReadonlyMap<string, number> {
  const samples = new Map<string, number>();
  for (const line of text.split('\n').filter((line) => line !== '' && !COMMENT.test(line))) {
    const [, name, value] = SAMPLE.exec(line) ?? [];
    if (name === undefined || samples.has(name)) throw new Error(`no sample, or one that was there before: ${line}`);
    samples.set(name, Number(value));
  }
  return samples;
}
