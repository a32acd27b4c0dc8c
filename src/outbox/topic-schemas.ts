import type { Logger } from 'pino';
import type { Queryable } from '../db/pool.ts';
import type { ClaimedAttempt } from './attempts.ts';
import { checkOf, JUDGED_WITHIN_MS, type Misfit, type PayloadCheck } from './payload-schema.ts';
import { eachWithinTime } from './time-limit.ts';
import type { Message } from './webhook.ts';

interface PayloadJudge {
  (payloadJson: string): string | undefined;
  readonly isQuick: boolean;
}

/**
 * The schemas that a worker judges by. What it claims says which change of them was the last, so what was registered before a message
 * was claimed is known to whoever sends it, and where nothing was ever registered nothing is asked.
 */
export interface TopicSchemas {
  /** @returns what the payload of each lacks to be sent, in words without a value of it; undefined: nothing */
  judge(claimed: readonly Judged[]): Promise<readonly (string | undefined)[]>;
}

type Judged = Pick<ClaimedAttempt, 'topicsVersion'> & { readonly message: Pick<Message, 'topic' | 'payloadJson'> };

interface Row {
  readonly topicsVersion: bigint;
  readonly topic: string | null;
  readonly version: number;
  readonly schemaJson: string;
}

// One snapshot, so that the number is of what comes with it.
const LOAD = `
  select topics_version as "topicsVersion", topic, version, schema::text as "schemaJson"
  from outbox.relay left join outbox.topics on true`;

export function createTopicSchemas({ db, log }: { db: Queryable; log: Logger }): TopicSchemas {
  let known = 0n;
  let judgesByTopic: ReadonlyMap<string, () => PayloadJudge | undefined> = new Map();

  async function load(): Promise<void> {
    const { rows } = await db.query<Row>({ name: 'topics', text: LOAD });
    const loaded = rows[0]?.topicsVersion ?? 0n;
    // Two may ask at once, and the older answer come last.
    if (loaded < known) return;
    known = loaded;
    judgesByTopic = new Map(
      rows.flatMap((row) =>
        row.topic === null ? [] : [[row.topic, onFirstUse(() => judgeBy(row.topic ?? '', row, log))]],
      ),
    );
  }

  return {
    judge: async (claimed) => {
      if (claimed.some(({ topicsVersion }) => topicsVersion > known)) await load();
      const pieces = claimed.map(({ message }) => {
        const judge = judgesByTopic.get(message.topic)?.();
        return { isQuick: judge?.isQuick ?? true, does: () => judge?.(message.payloadJson) };
      });
      return eachWithinTime(JUDGED_WITHIN_MS, pieces);
    },
  };
}

/** To make a judge costs milliseconds, and not every topic is announced. */
function onFirstUse<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}

function judgeBy(topic: string, { version, schemaJson }: Row, log: Logger): PayloadJudge | undefined {
  const check = checkOf(schemaJson);
  if (check instanceof Error) {
    log.error(
      { topic, version, error: check.message },
      'worker: a schema of a topic cannot be read, and judges nothing',
    );
    return undefined;
  }
  const judge = (payloadJson: string) => {
    const misfit = misfitOf(check, payloadJson);
    if (misfit === undefined) return undefined;
    const { path, expected } = misfit;
    return `not sent: the payload does not fit version ${version} of the schema of ${topic}: ${path === '' ? 'it' : path} ${expected}`;
  };
  return Object.assign(judge, { isQuick: check.isQuick });
}

function misfitOf(check: PayloadCheck, payloadJson: string): Misfit | undefined {
  try {
    return check(JSON.parse(payloadJson));
  } catch {
    // Whatever nobody thought of: it would end the same way each time, and with it all that were claimed together.
    return { path: '', expected: 'cannot be judged' };
  }
}
