import { type Command, InvalidArgumentError } from 'commander';
import { AppError } from '../errors.ts';
import { ENDPOINT_BOUNDS, ENDPOINT_DEFAULTS, type EndpointSettings } from '../outbox/endpoint-settings.ts';
import type { Headers } from '../outbox/headers.ts';
import { STANDARD_RETRY_DELAYS_MS } from '../outbox/retry.ts';
import { duration, durationText, uuid, wholeNumber } from './options.ts';
import { printable } from './printable.ts';
import { readSmallFile } from './small-file.ts';

/** What an endpoint's flags come to; false: cleared by its `--no-…`. */
export interface SettingFlags {
  readonly url?: string;
  readonly topic?: readonly string[];
  readonly description?: string | false;
  readonly organization?: string | false;
  readonly header?: readonly string[] | false;
  readonly headersFile?: string;
  readonly timeout?: number;
  readonly maxInFlight?: number;
  readonly rate?: number | false;
  readonly ordered?: boolean;
  readonly filter?: string | false;
  readonly retry?: readonly number[] | false;
}

const { timeoutMs, maxInFlight, ratePerSecond, retryDelayMs } = ENDPOINT_BOUNDS;
const timeout = duration(durationText(timeoutMs.min), durationText(timeoutMs.max));
const wait = duration(durationText(retryDelayMs.min), durationText(retryDelayMs.max));

/** What an endpoint has that names no schedule, unless its worker was started with another. */
export const STANDARD_SCHEDULE = STANDARD_RETRY_DELAYS_MS.map(durationText).join(', ');

/** @param options.clearing whether there is something that `--no-…` could clear */
export function addSettingFlags(command: Command, { clearing }: { clearing: boolean }): Command {
  // What is changed has no default: it stays as it is.
  const byDefault = (value: string | number) => (clearing ? '' : ` (default: ${value})`);
  command
    .option('--description <text>', 'what it is, in 1 to 500 characters')
    .option('--organization <id>', 'it receives the messages of this organization alone', uuid)
    .option('--header <header>', "sent with every message, 'name: value'; repeat it for more", collectHeader)
    .option('--headers-file <file>', 'the same, a line each, for what is not to be in a history; - reads stdin')
    .option(
      '--timeout <time>',
      `for a whole request, ${durationText(timeoutMs.min)} to ${durationText(timeoutMs.max)}${byDefault(durationText(ENDPOINT_DEFAULTS.timeoutMs))}`,
      timeout,
    )
    .option(
      '--max-in-flight <n>',
      `requests on their way at once, ${maxInFlight.min} to ${maxInFlight.max}${byDefault(ENDPOINT_DEFAULTS.maxInFlight)}`,
      wholeNumber(maxInFlight.min, maxInFlight.max),
    )
    .option(
      '--rate <n>',
      `requests that begin in a second, ${ratePerSecond.min} to ${ratePerSecond.max}`,
      wholeNumber(ratePerSecond.min, ratePerSecond.max),
    )
    .option('--ordered', 'messages of one ordering key go one after the other')
    .option('--filter <json>', 'what a payload must contain')
    .option(
      '--retry <times>',
      'up to 20 waits of 1s to 7d after failed attempts, such as 5s,5m,1h; none: one attempt is all',
      schedule,
    );
  if (!clearing) return command;
  return command
    .option('--no-description', 'without one')
    .option('--no-organization', "everybody's messages")
    .option('--no-header', 'no headers beside our own')
    .option('--no-rate', 'as fast as they are answered')
    .option('--no-ordered', 'in whatever order')
    .option('--no-filter', 'whatever the payload')
    .option('--no-retry', `the standard schedule: ${STANDARD_SCHEDULE}`);
}

/** What was named, and nothing else. */
export async function settingsOf(flags: SettingFlags): Promise<Partial<EndpointSettings>> {
  const headers = await headersOf(flags);
  const orNull = <T>(value: T | false) => (value === false ? null : value);
  return {
    ...(flags.url === undefined ? {} : { url: flags.url }),
    ...(flags.topic === undefined ? {} : { topics: flags.topic }),
    ...(flags.description === undefined ? {} : { description: orNull(flags.description) }),
    ...(flags.organization === undefined ? {} : { organizationId: orNull(flags.organization) }),
    ...(headers === undefined ? {} : { headers }),
    ...(flags.timeout === undefined ? {} : { timeoutMs: flags.timeout }),
    ...(flags.maxInFlight === undefined ? {} : { maxInFlight: flags.maxInFlight }),
    ...(flags.rate === undefined ? {} : { ratePerSecond: orNull(flags.rate) }),
    ...(flags.ordered === undefined ? {} : { ordered: flags.ordered }),
    ...(flags.filter === undefined ? {} : { filter: orNull(flags.filter) }),
    ...(flags.retry === undefined ? {} : { retryDelaysMs: orNull(flags.retry) }),
  };
}

type Shown = Partial<Omit<EndpointSettings, 'headers'>> & { readonly headerNames?: readonly string[] };

/** Without the values of headers, which may be passwords. */
export function shownSettings({ headers, ...settings }: Partial<EndpointSettings>): Shown {
  return { ...settings, ...(headers === undefined ? {} : { headerNames: Object.keys(headers).toSorted() }) };
}

export function changedText(words: string, id: string, shown: Shown): string {
  const lines = Object.entries(shown).map(([name, value]) => `  ${name}  ${printable(JSON.stringify(value))}\n`);
  return `${words}  ${id}\n${lines.join('')}`;
}

function collectHeader(header: string, previous?: readonly string[] | false): readonly string[] {
  return [...(previous || []), header];
}

function schedule(text: string): readonly number[] {
  if (text === 'none') return [];
  try {
    return text.split(',').map((each) => wait(each.trim()));
  } catch {
    throw new InvalidArgumentError('Give none, or times from 1s to 7d separated by commas, such as 5s,5m,1h.');
  }
}

async function headersOf({ header, headersFile }: SettingFlags): Promise<Headers | undefined> {
  if (headersFile === undefined && header === undefined) return undefined;
  const inFile = headersFile === undefined ? '' : await readSmallFile(headersFile, '--headers-file');
  const lines = [...(header || []), ...inFile.split('\n').filter((line) => line.trim() !== '')];
  const named = lines.map(parseHeader);
  const headers = Object.fromEntries(named);
  if (Object.keys(headers).length < named.length)
    throw new AppError('USAGE', 'A header is given twice. Give each once.');
  return headers;
}

// The value may be a password, and the whole line one: neither is repeated.
function parseHeader(line: string): [string, string] {
  const at = line.indexOf(':');
  if (at <= 0) throw new AppError('USAGE', "A header is given without its name. Give it as 'name: value'.");
  return [line.slice(0, at).trim().toLowerCase(), line.slice(at + 1).trim()];
}
