import pg from 'pg';
import { describe, expect, it } from 'vitest';
import { toAppError } from '../../src/db/sqlstate.ts';

describe('a server that stops, starts or has crashed', () => {
  it.each([
    ['57P01', 'terminating connection due to administrator command', /run again when it takes connections/],
    [
      '57P02',
      'terminating connection because of crash of another server process',
      /run again when it takes connections/,
    ],
    ['57P03', 'the database system is starting up', /wait and run again/],
  ])('is unreachable for now: SQLSTATE %s', (sqlstate, message, whatToDo) => {
    const error = Object.assign(new pg.DatabaseError(message, message.length, 'error'), { code: sqlstate });
    expect(toAppError(error)).toMatchObject({
      code: 'DB_UNREACHABLE',
      message: expect.stringMatching(whatToDo),
      details: { sqlstate },
      cause: error,
    });
  });
});

it('says that somebody else holds what was waited for, in sentences that end once', () => {
  const message = 'public.outbox was in use at each of 100 tries. Migrate again.';
  const error = Object.assign(new pg.DatabaseError(message, message.length, 'error'), { code: '55P03' });
  expect(toAppError(error)).toMatchObject({
    code: 'DB_CONFLICT',
    message: expect.stringMatching(/Migrate again\. Another transaction holds/),
  });
});

it('calls a server that does not answer in time overloaded or locked', () => {
  expect(toAppError(new Error('Query read timeout'))).toMatchObject({
    code: 'DB_UNREACHABLE',
    message: expect.stringMatching(/somebody holds a lock/),
  });
});

describe('SSL', () => {
  it.each([
    ['SELF_SIGNED_CERT_IN_CHAIN', 'self-signed certificate in certificate chain'],
    ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', 'unable to verify the first certificate'],
    ['CERT_HAS_EXPIRED', 'certificate has expired'],
    ['ERR_TLS_CERT_ALTNAME_INVALID', "Hostname/IP does not match certificate's altnames"],
    ['ERR_SSL_WRONG_VERSION_NUMBER', 'wrong version number'],
    ['EPROTO', 'write EPROTO'],
  ])('that fails with %s is said with what to do', (code, message) => {
    expect(toAppError(Object.assign(new Error(message), { code }))).toMatchObject({
      code: 'DB_UNREACHABLE',
      message: expect.stringMatching(new RegExp(`${message}.*sslrootcert=`)),
    });
  });
});

const systemError = (properties: { code: string; syscall?: string }, message = 'it failed') =>
  Object.assign(new Error(message), properties);

describe('a system error', () => {
  it.each([
    { code: 'ECONNREFUSED', syscall: 'connect' },
    { code: 'ENOENT', syscall: 'connect' },
    { code: 'EACCES', syscall: 'connect' },
    { code: 'ENOTFOUND', syscall: 'getaddrinfo' },
    { code: 'EAI_AGAIN', syscall: 'getaddrinfo' },
    { code: 'ECONNRESET', syscall: 'read' },
    { code: 'EPIPE', syscall: 'write' },
    // A TLS handshake that is cut off has no syscall.
    { code: 'ECONNRESET' },
  ])('of a socket is the database that did not answer: $code of $syscall', (properties) => {
    expect(toAppError(systemError(properties))).toMatchObject({ code: 'DB_UNREACHABLE' });
  });

  it.each([
    { code: 'ENOENT', syscall: 'open' },
    { code: 'EACCES', syscall: 'mkdir' },
    { code: 'ENOENT', syscall: 'spawn initdb' },
    { code: 'ENOSPC', syscall: 'write' },
    { code: 'EIO', syscall: 'read' },
  ])('of a file or a process is none of the database: $code of $syscall', (properties) => {
    expect(toAppError(systemError(properties, 'no luck with it'))).toMatchObject({
      code: 'SYSTEM_FAILED',
      message: expect.stringContaining('no luck with it'),
    });
  });
});

it('names the missing password', () => {
  const error = new Error('SASL: SCRAM-SERVER-FIRST-MESSAGE: client password must be a string');
  expect(toAppError(error)).toMatchObject({
    code: 'DB_AUTH_FAILED',
    message: expect.stringMatching(/asks for a password, and DATABASE_URL has none/),
  });
});

it('calls what nobody foresaw a mistake of our own', () => {
  expect(toAppError(new TypeError('x is not a function'))).toMatchObject({ code: 'INTERNAL' });
});
