import { describe, expect, it, vi } from 'vitest';
import { describeError } from '../../src/cli/log.ts';
import { errorLine, formatMoney } from '../../src/cli/output.ts';
import { createProgress, createProgressBeside, progressLine, waitingFor } from '../../src/cli/progress.ts';
import { toJson } from '../../src/db/json-value.ts';
import { AppError } from '../../src/errors.ts';

describe('money', () => {
  it.each([
    [0n, 2, '0.00'],
    [5n, 2, '0.05'],
    [-5n, 2, '-0.05'],
    [1_234_567n, 2, '12,345.67'],
    [-100_000n, 2, '-1,000.00'],
    [1_234n, 0, '1,234'],
    [1_234_567n, 3, '1,234.567'],
    [9_223_372_036_854_775_807n, 2, '92,233,720,368,547,758.07'],
  ])('%s with %i decimal places reads %s', (amountCents, exponent, text) => {
    expect(formatMoney(amountCents, exponent)).toBe(text);
  });
});

describe('JSON for machines', () => {
  it('writes a bigint as a number where that is exact, and as text where it is not', () => {
    expect(toJson({ small: 12n, large: 9_007_199_254_740_993n })).toBe('{"small":12,"large":"9007199254740993"}');
  });
});

it('an error is one line: code, what, what to do', () => {
  expect(errorLine(new AppError('USAGE', 'What. What to do.'))).toBe('liventix: USAGE: What. What to do.\n');
});

it('the log tells name, code and message of an error, and nothing that a driver hangs on it', () => {
  const error = Object.assign(new Error('read ECONNRESET'), {
    code: 'ECONNRESET',
    command: { name: 'hello', args: ['3', 'AUTH', 'default', 'secret'] },
  });
  expect(describeError(error)).toEqual({ type: 'Error', code: 'ECONNRESET', message: 'read ECONNRESET' });
  expect(describeError('no error at all')).toEqual({ type: 'string', message: 'no error at all' });
});

describe('progress', () => {
  it('shows a bar, a rate and an estimate', () => {
    expect(progressLine({ label: 'rows', done: 50_000, total: 100_000, elapsedMs: 4_000 })).toBe(
      'rows ████████████░░░░░░░░░░░░  50,000 of 100,000   12,500/s   4 s left',
    );
  });

  it('survives nothing done, nothing to do, and more done than there was', () => {
    expect(progressLine({ label: 'rows', done: 0, total: 10, elapsedMs: 0 })).toMatch(/ 0 of 10$/);
    expect(progressLine({ label: 'rows', done: 0, total: 0, elapsedMs: 5 })).toBe('rows …');
    expect(progressLine({ label: 'rows', done: 1_234, total: 0, elapsedMs: 2_000 })).toBe('rows 1,234   617/s');
    expect(progressLine({ label: 'rows', done: 12, total: 10, elapsedMs: 1_000 })).toContain('12 of 10');
  });

  it('writes nothing where nobody watches, and redraws a terminal at most five times a second', () => {
    const written: string[] = [];
    const err = { write: (text: string) => written.push(text) };
    createProgress({ out: err, err }).update('rows', 1, 2);
    expect(written).toEqual([]);
    let nowMs = 1_000;
    const progress = createProgress({ out: err, err: { ...err, isTTY: true } }, () => nowMs);
    for (let step = 0; step < 10; step += 1) {
      progress.update('rows', step, 10);
      nowMs += 50;
    }
    expect(written).toHaveLength(3);
  });

  it('keeps to the width of the terminal, where a line that wraps could not be redrawn', () => {
    const written: string[] = [];
    const err = { write: (text: string) => written.push(text), isTTY: true, columns: 30 };
    createProgress({ out: err, err }).update('a label that is longer than the terminal', 1, 2);
    expect(written).toEqual(['\r\u001b[2Ka label that is longer than …']);
  });

  it('says for how long it has been at what cannot say how far it is', () => {
    expect(progressLine({ label: 'adding up', done: 0, total: 0, elapsedMs: 12_900 })).toBe('adding up …   12 s');
  });

  it('redraws each second while one answer is awaited, and stops when it is there', async () => {
    vi.useFakeTimers();
    try {
      const written: string[] = [];
      const err = { write: (text: string) => written.push(text), isTTY: true };
      let answer = (_: string) => {};
      const asked = new Promise<string>((resolve) => {
        answer = resolve;
      });
      const waited = waitingFor({ out: err, err }, 'adding up', () => asked);
      await vi.advanceTimersByTimeAsync(999);
      expect(written).toEqual([]);
      await vi.advanceTimersByTimeAsync(2_001);
      expect(written.map((each) => each.replace('\r\u001b[2K', ''))).toEqual([
        'adding up …',
        'adding up …   1 s',
        'adding up …   2 s',
      ]);
      answer('done');
      expect(await waited).toBe('done');
      await vi.advanceTimersByTimeAsync(5_000);
      expect(written).toHaveLength(4);
      expect(written.at(-1)).toBe('\r\u001b[2K');
    } finally {
      vi.useRealTimers();
    }
  });

  it('says nothing of what answers within a second, and nothing where nobody watches', async () => {
    const written: string[] = [];
    const err = { write: (text: string) => written.push(text), isTTY: true };
    await waitingFor({ out: err, err }, 'adding up', async () => undefined);
    expect(written.filter((each) => each.includes('adding'))).toEqual([]);
    const quiet = { write: (text: string) => written.push(text) };
    const before = written.length;
    await waitingFor({ out: quiet, err: quiet }, 'adding up', async () => undefined);
    expect(written).toHaveLength(before);
  });

  it('is not shown where the same terminal is printed to meanwhile', () => {
    const written: string[] = [];
    const terminal = { write: (text: string) => written.push(text), isTTY: true };
    createProgressBeside({ out: terminal, err: terminal }).update('lines', 1, 2);
    expect(written).toEqual([]);
    createProgressBeside({ out: { write: () => undefined }, err: terminal }).update('lines', 1, 2);
    expect(written).toHaveLength(1);
  });

  it('names at once what begins, however lately it drew', () => {
    const written: string[] = [];
    const err = { write: (text: string) => written.push(text), isTTY: true };
    const progress = createProgress({ out: err, err }, () => 1_000);
    progress.update('first', 0, 0);
    progress.update('second', 0, 0);
    expect(written).toEqual([expect.stringMatching(/first …$/), expect.stringMatching(/second …$/)]);
  });
});
