import { type AnySchemaObject, type ErrorObject, Ajv2020 as Validator } from 'ajv/dist/2020.js';
import ajvFormats from 'ajv-formats';
import { z } from 'zod';
import { findNonJson } from '../db/json-value.ts';
import { AppError } from '../errors.ts';
import { BROKEN_OFF, withinTime } from './time-limit.ts';

/** What payloads of a topic look like: a schema of zod 4, or JSON Schema of draft 2020-12. */
export type PayloadSchema = z.ZodType | Readonly<Record<string, unknown>>;

/** Where a payload does not fit, and what would. Never a value of it, which may be personal. */
export interface Misfit {
  /** A JSON pointer; `*` stands for a key that the schema does not name, because that is of the payload. */
  readonly path: string;
  /** Such as `must be integer`. */
  readonly expected: string;
}

export interface PayloadCheck {
  (payload: unknown): Misfit | undefined;
  /** It takes no longer than it takes to read the payload; else it is broken off in time. */
  readonly isQuick: boolean;
}

const DRAFT = 'https://json-schema.org/draft/2020-12/schema';
/** As the database has it. */
const MAX_SCHEMA_BYTES = 65_536;
const MAX_SHOWN = 200;
/** Of a processor's time: nothing else goes on in a process that judges. */
export const JUDGED_WITHIN_MS = 100;
/** Those whose time is not that of reading the payload once. */
const SLOW_KEYWORDS = new Set(['pattern', 'patternProperties', 'format', 'uniqueItems', '$ref', '$dynamicRef']);
/** A longer schema may look at each item of a payload often. */
const QUICK_SCHEMA_CHARACTERS = 2_000;
/** As many as there may be topics. */
const MAX_COMPILED = 1_000;

/** What a draft says of schemas, once for all of them. */
const draft = new Validator({ strict: false, logger: false });

/**
 * The JSON Schema that is to be stored.
 * @throws AppError OUTBOX_SCHEMA_INVALID
 */
export function acceptedSchema(given: PayloadSchema): AnySchemaObject {
  const isZod = typeof given === 'object' && given !== null && '_zod' in given;
  const schema = isZod ? fromZod(given as z.ZodType) : given;
  if (typeof schema !== 'object' || schema === null || Array.isArray(schema)) throw invalid('it is no object');
  if (findNonJson(schema) !== undefined) throw invalid('it holds what JSON does not have, or is nested without end');
  const json = JSON.stringify(schema);
  const bytes = Buffer.byteLength(json);
  if (bytes > MAX_SCHEMA_BYTES) throw invalid(`it has ${bytes} bytes, more than ${MAX_SCHEMA_BYTES}`);
  // Of what JSON keeps: a stored schema has no more.
  const stored = JSON.parse(json) as AnySchemaObject;
  const why = faultOf(stored, { isByHand: !isZod });
  if (why !== undefined) throw invalid(why);
  return stored;
}

function fromZod(schema: z.ZodType): object {
  try {
    // What goes in, because `announce` sends the payload as it is given: without defaults and transformations.
    return z.toJSONSchema(schema, {
      io: 'input',
      override: ({ jsonSchema }) => {
        // A name among zod's own; in JSON Schema it was a keyword once, and validators refuse it.
        delete jsonSchema.id;
      },
    });
  } catch (error) {
    throw invalid(`zod says: ${messageOf(error)}`);
  }
}

/** @param options.isByHand a misspelt keyword or format would judge nothing, in silence; zod has formats and annotations of its own */
function faultOf(schema: AnySchemaObject, options: { isByHand: boolean }): string | undefined {
  const { $async, $schema, type } = schema;
  if ($async !== undefined) return '$async is no keyword of JSON Schema';
  if ($schema !== undefined && $schema !== DRAFT) return `its $schema is not ${DRAFT}`;
  try {
    if (draft.validateSchema(schema) !== true) return draft.errorsText(draft.errors?.slice(0, 1), { dataVar: '' });
    if (type !== undefined && ![type].flat().includes('object'))
      return 'a payload is always an object, and its type is not';
    validatorOf(schema, options);
    return undefined;
  } catch (error) {
    return messageOf(error);
  }
}

// Each by itself: schemas of one validator share what their $id name.
function validatorOf(schema: AnySchemaObject, { isByHand }: { isByHand: boolean }) {
  const validator = new Validator({
    strictSchema: isByHand,
    strictTypes: false,
    strictTuples: false,
    strictRequired: false,
    // It is one, and unknown to this library in its strict mode.
    keywords: ['$anchor'],
    meta: false,
    validateSchema: false,
    logger: false,
  });
  return ajvFormats.default(validator).compile(schema);
}

function invalid(why: string): AppError {
  return new AppError(
    'OUTBOX_SCHEMA_INVALID',
    `The schema cannot be taken: ${why}. Give JSON Schema of draft 2020-12 for an object, or a schema of zod 4.`,
  );
}

const compiled = new Map<string, PayloadCheck | Error>();

/**
 * What judges payloads by a stored schema, made once for the same text in this process.
 * @returns an error where it cannot be read
 */
export function checkOf(schemaJson: string): PayloadCheck | Error {
  let check = compiled.get(schemaJson);
  if (check === undefined) {
    check = compile(schemaJson);
    if (compiled.size >= MAX_COMPILED) compiled.clear();
    compiled.set(schemaJson, check);
  }
  return check;
}

function compile(schemaJson: string): PayloadCheck | Error {
  const schema = JSON.parse(schemaJson) as AnySchemaObject;
  const why = faultOf(schema, { isByHand: false });
  if (why !== undefined) return new Error(why);
  const validate = validatorOf(schema, { isByHand: false });
  const named = namesOf(schema);
  const isQuick =
    schemaJson.length <= QUICK_SCHEMA_CHARACTERS && !keywordsOf(schema).some((keyword) => SLOW_KEYWORDS.has(keyword));
  const check = (payload: unknown): Misfit | undefined => {
    try {
      const fits = isQuick ? validate(payload) : withinTime(JUDGED_WITHIN_MS, () => validate(payload));
      if (fits === BROKEN_OFF) {
        return { path: '', expected: `takes more than ${JUDGED_WITHIN_MS} ms of a processor to be judged` };
      }
      if (fits) return undefined;
    } catch (error) {
      // Of a schema that refers to itself, one call for each level of the payload.
      if (error instanceof RangeError) return { path: '', expected: 'must be nested less deeply' };
      throw error;
    }
    // The last is of the keyword that holds the others together, such as anyOf.
    const last = validate.errors?.at(-1);
    return { path: pathOf(last, { payload, named }), expected: cut(last?.message ?? 'must be valid') };
  };
  return Object.assign(check, { isQuick });
}

function pathOf(
  error: ErrorObject | undefined,
  { payload, named }: { payload: unknown; named: ReadonlySet<string> },
): string {
  let part = payload;
  const shown = (error?.instancePath ?? '')
    .split('/')
    .slice(1)
    .map((segment) => {
      const key = segment.replaceAll('~1', '/').replaceAll('~0', '~');
      const isTold = Array.isArray(part) || named.has(key);
      part = (part as Readonly<Record<string, unknown>> | undefined)?.[key];
      return isTold ? `/${segment}` : '/*';
    });
  return cut(shown.join(''));
}

/** The keys of payloads that a schema names itself. */
function namesOf(schema: unknown, names = new Set<string>()): ReadonlySet<string> {
  if (typeof schema !== 'object' || schema === null) return names;
  for (const [keyword, inner] of Object.entries(schema)) {
    if (keyword === 'properties') for (const name of Object.keys(inner ?? {})) names.add(name);
    namesOf(inner, names);
  }
  return names;
}

/** Every key that it has, of keywords and of what they name. */
function keywordsOf(schema: unknown): readonly string[] {
  if (typeof schema !== 'object' || schema === null) return [];
  return Object.entries(schema).flatMap(([keyword, inner]) => [keyword, ...keywordsOf(inner)]);
}

function messageOf(error: unknown): string {
  return cut(error instanceof Error ? error.message : String(error)).replace(/\.$/, '');
}

function cut(text: string): string {
  return text.replace(/\s+/g, ' ').slice(0, MAX_SHOWN);
}
