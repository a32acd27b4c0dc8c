import type { Logger } from 'pino';
import { toAppError } from '../db/sqlstate.ts';
import { AppError, type ErrorCode } from '../errors.ts';
import { html, type Markup } from '../html/markup.ts';

export interface Failure {
  readonly error: AppError;
  readonly status: number;
  readonly title: string;
  readonly body: Markup;
}

const STATUS: Partial<Readonly<Record<ErrorCode, number>>> = {
  CONSOLE_NOT_FOUND: 404,
  CONSOLE_FORBIDDEN: 403,
  CONSOLE_FORGED: 403,
  CONSOLE_SIGNED_OUT: 401,
  CONSOLE_TOO_MANY: 429,
  DB_PERMISSION_DENIED: 403,
  LEDGER_BUSY: 503,
  QUEUE_UNREACHABLE: 503,
  DB_CONFLICT: 503,
};

const TITLES: Readonly<Record<number, string>> = {
  400: 'That cannot be asked',
  401: 'Sign in first',
  403: 'Not allowed',
  404: 'Not found',
  409: 'That cannot be done now',
  429: 'Too much at once',
  500: 'Something went wrong',
  503: 'The database does not answer',
};

/** A page's statement was given up. */
const TOOK_TOO_LONG = '57014';

function statusOf({ code, exitCode, details }: AppError): number {
  const known = STATUS[code];
  if (known !== undefined) return known;
  if (code.endsWith('_UNKNOWN')) return 404;
  // What PostgreSQL cannot take for text, a number or an instant.
  if (code === 'DB_FAILED' && /^22/.test(String(details['sqlstate']))) return 400;
  if (code.startsWith('DB_')) return 503;
  if (exitCode === 2) return 400;
  return code === 'INTERNAL' ? 500 : 409;
}

/** What a page says in place of what was asked for: what happened, and what to do. Of a mistake of ours, the log has the rest. */
export function failureOf(
  thrown: unknown,
  { log, wasAction }: { readonly log: Logger; readonly wasAction: boolean },
): Failure {
  const error = asAppError(thrown);
  const status = statusOf(error);
  if (status >= 500) log.error({ err: error, cause: causeOf(error) }, 'a page of the console could not be made');
  const message =
    error.code === 'INTERNAL'
      ? 'A mistake of Liventix’s own. The log of the console says more: look there for INTERNAL, at this time.'
      : error.message;
  return {
    error,
    status,
    title: titleOf(status, error),
    body: html`<p>${message}</p>
${wasAction && status >= 500 ? html`<p>It may have been done in part, or in whole: <a href="/audit">what was done here</a> says how far it came.</p>` : ''}
<p class="faint"><code>${error.code}</code> · ${new Date().toISOString()}</p>
<p>${(status === 503 || status === 429) && !wasAction ? html`<a href="">Try again</a> · ` : ''}<a href="/">To the first page</a></p>`,
  };
}

const titleOf = (status: number, { details }: AppError): string =>
  details['sqlstate'] === TOOK_TOO_LONG ? 'That takes too long' : (TITLES[status] ?? 'Something went wrong');

const causeOf = ({ cause }: AppError): string | undefined => (cause instanceof Error ? cause.stack : undefined);

/** Fastify's own, and those of its plugins, by their codes. */
function asAppError(thrown: unknown): AppError {
  if (thrown instanceof AppError) return thrown;
  const { code = '', statusCode, message } = thrown as { code?: string; statusCode?: number; message?: string };
  if (code.startsWith('FST_CSRF_')) {
    return new AppError(
      'CONSOLE_FORGED',
      'The form was not one of this console, or has grown old. Nothing was done: go back, load the page again, and press the button once more.',
      { cause: thrown },
    );
  }
  if (statusCode === 429) {
    return new AppError('CONSOLE_TOO_MANY', message ?? 'Too many tries. Wait for a minute.', { cause: thrown });
  }
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
    return new AppError('CONSOLE_INVALID', message ?? 'The request cannot be read.', { cause: thrown });
  }
  return toAppError(thrown);
}
