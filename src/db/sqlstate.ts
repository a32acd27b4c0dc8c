import pg from 'pg';
import { AppError, ERROR_CODES, type ErrorCode } from '../errors.ts';

const OUR_SQLSTATES: ReadonlyMap<string, ErrorCode> = new Map(
  Object.entries(ERROR_CODES).flatMap(([code, spec]) =>
    'sqlstate' in spec ? [[spec.sqlstate, code as ErrorCode] as const] : [],
  ),
);

const SERVER_STOPS = 'The server, or an administrator, ended the connection: run again when it takes connections.';

const SERVER_SQLSTATES: ReadonlyMap<string, { code: ErrorCode; whatToDo: string }> = new Map([
  ['28P01', { code: 'DB_AUTH_FAILED', whatToDo: 'Check the user and the password in DATABASE_URL.' }],
  [
    '28000',
    {
      code: 'DB_AUTH_FAILED',
      whatToDo: "Check the user and the sslmode in DATABASE_URL, and the server's pg_hba.conf.",
    },
  ],
  ['3D000', { code: 'DB_NOT_FOUND', whatToDo: 'Create it, or correct the name in DATABASE_URL.' }],
  [
    '42501',
    {
      code: 'DB_PERMISSION_DENIED',
      whatToDo:
        "Run as the database's owner, or have the right granted; where policies hold for the owner too, as a role with BYPASSRLS.",
    },
  ],
  [
    '08P01',
    {
      code: 'DB_POOLER_UNSUITABLE',
      whatToDo: 'A pooler stands in between: add options to its ignore_startup_parameters, or name the server itself.',
    },
  ],
  ['53100', { code: 'DB_DISK_FULL', whatToDo: 'Make room there and run again: what came before is kept.' }],
  [
    '55P03',
    {
      code: 'DB_CONFLICT',
      whatToDo:
        'Another transaction holds what this one waited for: liventix doctor names those that are open. Run again when it has ended.',
    },
  ],
  ['53300', { code: 'DB_UNREACHABLE', whatToDo: 'Close other connections or raise max_connections.' }],
  ['57P01', { code: 'DB_UNREACHABLE', whatToDo: SERVER_STOPS }],
  ['57P02', { code: 'DB_UNREACHABLE', whatToDo: SERVER_STOPS }],
  ['57P03', { code: 'DB_UNREACHABLE', whatToDo: 'The server is starting or stopping: wait and run again.' }],
]);

/** What a socket is told when its other end is gone; a file is never told so. */
const LOST_CONNECTION_CODES = new Set([
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
]);

const RETRYABLE = new Set(['40001', '40P01']);

/** Two that record the same at the same time: run again, the second finds the first's result. */
const RACED_CONSTRAINTS = new Set(['events_event_id_key', 'events_idempotency_key']);

/** A conflict with another transaction that goes away when the whole transaction is run again. */
export function isRetryableConflict(failure: unknown): boolean {
  const error = failure instanceof AppError ? failure.cause : failure;
  if (!(error instanceof pg.DatabaseError) || error.code === undefined) return false;
  return RETRYABLE.has(error.code) || (error.code === '23505' && RACED_CONSTRAINTS.has(error.constraint ?? ''));
}

/** Whether a row, or an index, would have had a key twice. */
export function isUniqueViolation(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code === '23505';
}

/** Whether something was not dropped because of what stands on it. */
export function isDependedOn(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code === '2BP01';
}

/** Whether a statement waited for a lock as long as its lock_timeout allows. */
export function isLockTimeout(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code === '55P03';
}

/** Whether a statement was ended: it took longer than its statement_timeout allows, or somebody asked for it. */
export function isCanceled(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code === '57014';
}

/** Whether a transaction was ended because its program did nothing for longer than the server waits for it. */
export function isIdleTooLong(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code === '25P03';
}

/** Whether a function was given what it does not take, such as `parse_ident` no name. */
export function isInvalidParameter(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code === '22023';
}

/** Whether a value was refused: by a check constraint, or because its type has no such value. */
export function isRefusedValue(error: unknown): boolean {
  return error instanceof pg.DatabaseError && (error.code === '23514' || error.code?.startsWith('22') === true);
}

/** Whether something is there that the server was not started with, such as an extension that has to be preloaded. */
export function isNotLoaded(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code === '55000';
}

/** Whether a partition would hold what another one holds. */
export function isOverlap(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code === '42P17';
}

/** Whether nothing may be written: on a standby, or because the session is set so. */
export function isReadOnly(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code === '25006';
}

/** Whether the role lacks a right. */
export function isDenied(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code === '42501';
}

/**
 * Maps whatever a query threw to an AppError: the one place that knows SQLSTATEs. An AppError passes through; a server
 * error that nobody foresaw becomes DB_FAILED with its SQLSTATE.
 */
export function toAppError(error: unknown): AppError {
  if (error instanceof AppError) return error;
  if (error instanceof pg.DatabaseError) return fromServer(error);
  const failure = firstOf(error);
  const unreachable = whyUnreachable(failure);
  if (unreachable !== undefined) return new AppError('DB_UNREACHABLE', unreachable, { cause: error });
  if (/^SASL: .*client password must be a/.test(failure.message)) {
    return new AppError(
      'DB_AUTH_FAILED',
      'The server asks for a password, and DATABASE_URL has none. Add it: postgresql://user:password@host:5432/database, its special characters percent-encoded.',
      { cause: error },
    );
  }
  if (isSystemFailure(failure)) return systemFailure(failure);
  return new AppError('INTERNAL', oneLine(failure.message), { cause: error });
}

/** What the operating system refused to do with a file, a process or an output of ours: not a mistake of our own. */
export function systemFailure(error: Error): AppError {
  return new AppError(
    'SYSTEM_FAILED',
    `The system refused: ${withoutLongNames(oneLine(error.message))}. Remove the cause, such as a full disk, a missing right or an output that nobody reads, and run again.`,
    { cause: error },
  );
}

function fromServer(error: pg.DatabaseError): AppError {
  const sqlstate = error.code ?? 'unknown';
  const details = { sqlstate, ...parseDetail(error.detail) };
  const ours = OUR_SQLSTATES.get(sqlstate);
  if (ours !== undefined) {
    const hint = error.hint === undefined ? '' : ` ${oneLine(error.hint)}`;
    return new AppError(ours, `${oneLine(error.message)}${hint}`, { details, cause: error });
  }
  if (isRetryableConflict(error)) {
    return new AppError(
      'DB_CONFLICT',
      `The transaction met a conflict with another one (${oneLine(error.message)}). Nothing was written: run it again.`,
      { details, cause: error },
    );
  }
  // The type of a machine's states does not have it: refused before any trigger of ours is asked.
  if (sqlstate === '22P02' && /states\.\w+_state\b/.test(error.message)) {
    return new AppError(
      'STATE_UNKNOWN',
      `${oneLine(error.message)}. Case counts: liventix states show has the states.`,
      {
        details,
        cause: error,
      },
    );
  }
  const known = SERVER_SQLSTATES.get(sqlstate);
  if (known !== undefined) {
    return new AppError(known.code, `${oneLine(error.message).replace(/\.$/, '')}. ${known.whatToDo}`, {
      details,
      cause: error,
    });
  }
  return new AppError('DB_FAILED', `${oneLine(error.message)} (SQLSTATE ${sqlstate}).`, { details, cause: error });
}

// A connection to a name with several addresses fails with an AggregateError whose own message is empty.
function firstOf(error: unknown): Failure {
  const inner = error instanceof AggregateError ? error.errors[0] : error;
  return inner instanceof Error ? inner : new Error(String(inner));
}

type Failure = Error & { code?: unknown; syscall?: unknown };

/** What happened and what to do, for a failure between here and the server; undefined for any other. */
function whyUnreachable(failure: Failure): string | undefined {
  const what = oneLine(failure.message);
  if (/does not support SSL/i.test(what)) {
    return `${what}. Switch SSL on there, or set sslmode=disable in DATABASE_URL.`;
  }
  if (isTlsFailure(failure)) {
    return `No trusted SSL connection came about: ${what}. Name the CA of the server's certificate in DATABASE_URL (sslmode=verify-full&sslrootcert=/path/to/ca.pem), or trust whoever answers (sslmode=require).`;
  }
  if (/timeout exceeded when trying to connect/i.test(what)) {
    return `No connection of the pool became free in time (${what}). Do less at the same time, or raise LIVENTIX_POOL_MAX.`;
  }
  if (/query read timeout/i.test(what)) {
    return 'The database did not answer in time: it is overloaded, or somebody holds a lock. liventix doctor names open transactions.';
  }
  if (failure.syscall === 'getaddrinfo') {
    return `The host has no address: ${what}. Check that DATABASE_URL names its host and port, and that @, / and other special characters of the password are percent-encoded.`;
  }
  if (isNetworkFailure(failure)) {
    return `The database did not answer: ${what}. Check that it runs and that DATABASE_URL names its host and port.`;
  }
  return undefined;
}

// Node names what is wrong with a certificate by OpenSSL's codes, such as DEPTH_ZERO_SELF_SIGNED_CERT.
function isTlsFailure({ code, message }: Failure): boolean {
  if (/establishing an SSL connection/i.test(message)) return true;
  return typeof code === 'string' && /CERT|^ERR_(TLS|SSL|OSSL)_|^UNABLE_TO_|^INVALID_(CA|PURPOSE)$|^EPROTO$/.test(code);
}

// Files and processes fail with codes of the same names: what was called tells them apart.
function isNetworkFailure({ code, syscall, message }: Failure): boolean {
  if (syscall === 'connect') return true;
  const isOfSocket = syscall === undefined || syscall === 'read' || syscall === 'write';
  if (isOfSocket && typeof code === 'string' && LOST_CONNECTION_CODES.has(code)) return true;
  return /connection terminated|timeout expired|client has encountered a connection error/i.test(message);
}

function isSystemFailure({ code, syscall }: Failure): boolean {
  return typeof code === 'string' && typeof syscall === 'string';
}

function parseDetail(detail: string | undefined): Record<string, unknown> {
  if (detail === undefined) return {};
  try {
    const parsed: unknown = JSON.parse(detail);
    return typeof parsed === 'object' && parsed !== null ? { ...parsed } : { detail };
  } catch {
    return { detail };
  }
}

/** A file's name is repeated as far as one knows it by. */
function withoutLongNames(text: string): string {
  return text.replace(/'([^']{300})[^']+'/g, "'$1…'");
}

function oneLine(text: string): string {
  return text.replace(/\s+/g, ' ').trim();
}
