import { AppError } from '../errors.ts';

const TOPIC = /^[a-z0-9_]+(\.[a-z0-9_]+)*$/;
const MAX_TOPIC_LENGTH = 128;
const PATTERN = /^(\*|[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?)$/;
const MAX_PATTERN_LENGTH = 130;
const MAX_PATTERNS = 100;

/**
 * What an endpoint may subscribe to: a topic, `*`, or `ticket.*` for everything below `ticket.`. The database holds the
 * same rule.
 * @throws AppError OUTBOX_TOPIC_INVALID
 */
export function assertTopicPatterns(patterns: readonly string[]): void {
  if (patterns.length === 0 || patterns.length > MAX_PATTERNS) {
    throw new AppError(
      'OUTBOX_TOPIC_INVALID',
      `An endpoint subscribes to 1 to ${MAX_PATTERNS} topics, not ${patterns.length}. Name them, or use * for all.`,
    );
  }
  const wrong = patterns.find((pattern) => pattern.length > MAX_PATTERN_LENGTH || !PATTERN.test(pattern));
  if (wrong !== undefined) {
    throw new AppError(
      'OUTBOX_TOPIC_INVALID',
      `${JSON.stringify(wrong.slice(0, MAX_PATTERN_LENGTH))} is not a topic. Use lowercase words joined by dots such as ticket.purchased, ticket.* for all below ticket, or * for all.`,
    );
  }
}

/**
 * What a message may be announced under. The database holds the same rule.
 * @throws AppError OUTBOX_TOPIC_INVALID
 */
export function assertTopic(topic: unknown): asserts topic is string {
  if (typeof topic === 'string' && topic.length <= MAX_TOPIC_LENGTH && TOPIC.test(topic)) return;
  throw new AppError(
    'OUTBOX_TOPIC_INVALID',
    `${typeof topic === 'string' ? JSON.stringify(topic.slice(0, MAX_TOPIC_LENGTH)) : `What is of type ${typeof topic}`} is not a topic. Use lowercase words joined by dots such as ticket.purchased, at most ${MAX_TOPIC_LENGTH} characters.`,
  );
}
