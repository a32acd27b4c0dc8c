import type { MessageStory } from '../outbox/message-story.ts';
import type { PassedOver, PassedOverEndpoint } from '../outbox/passed-over.ts';
import { printable } from './printable.ts';

const MS = 1;

/** Of a message that became no delivery: who was not sent it, why, and how it is sent after all. */
export function passedOverLines({ topic, createdAt }: MessageStory, passedOver: PassedOver): string[] {
  const { endpoints, isCut } = passedOver;
  if (endpoints.length === 0) return [`deliveries none: no endpoint that may have it subscribes to ${topic} now`];
  const to = new Date(createdAt.getTime() + MS);
  return [
    'deliveries none',
    ...endpoints.map((each) => `not sent   ${each.endpointId}  ${printable(each.url)}  ${whyText(each)}`),
    ...(isCut ? ['not sent   and to others, which were added later than these'] : []),
    ...(endpoints.every(({ why }) => why === 'filter')
      ? []
      : [
          `to send it liventix outbox replay --topic ${topic} --from ${createdAt.toISOString()} --to ${to.toISOString()} --endpoint <id>`,
        ]),
  ];
}

function whyText({ why, since, enabled }: PassedOverEndpoint): string {
  const whatFirst = enabled ? '' : '; it is disabled, so enable it first';
  switch (why) {
    case 'filter':
      return 'its filter does not match';
    case 'added_later':
      return `it was added later, at ${since?.toISOString()}${whatFirst}`;
    case 'disabled':
      return `it was disabled, since ${since?.toISOString()}: enable it first`;
    case 'changed':
      return `it would be sent it now: it was disabled then, or its topics or its filter were others${whatFirst}`;
    default:
      return why satisfies never;
  }
}
