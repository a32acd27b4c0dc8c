import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type AskedPeriod, parsePeriod, periodName, stepOf } from '../../src/report/period.ts';
import { pointsOf } from '../../src/report/points.ts';

const days = ({ firstDay, lastDay }: AskedPeriod) => [firstDay, lastDay];

describe('a period', () => {
  it.each([
    ['2026-10', ['2026-10-01', '2026-10-31'], 'October 2026'],
    ['2026-02', ['2026-02-01', '2026-02-28'], 'February 2026'],
    ['2024-02', ['2024-02-01', '2024-02-29'], 'February 2024'],
    ['2000-02', ['2000-02-01', '2000-02-29'], 'February 2000'],
    ['1900-02', ['1900-02-01', '1900-02-28'], 'February 1900'],
    ['2026-Q1', ['2026-01-01', '2026-03-31'], '2026 Q1'],
    ['2026-q4', ['2026-10-01', '2026-12-31'], '2026 Q4'],
    ['2026', ['2026-01-01', '2026-12-31'], '2026'],
    ['0001', ['0001-01-01', '0001-12-31'], '0001'],
    ['9999-12', ['9999-12-01', '9999-12-31'], 'December 9999'],
    ['2026-10-05..2026-10-05', ['2026-10-05', '2026-10-05'], '5 Oct 2026 – 5 Oct 2026'],
    ['2025-12-31..2026-01-01', ['2025-12-31', '2026-01-01'], '31 Dec 2025 – 1 Jan 2026'],
  ])('%s is of these days, and is named', (text, of, name) => {
    const period = parsePeriod(text);
    expect(days(period)).toEqual(of);
    expect(periodName(period, 'en-GB')).toBe(name);
  });

  it.each([
    ...[
      '',
      ' ',
      '26-10',
      '2026-1',
      '2026-13',
      '2026-00',
      '2026-Q0',
      '2026-Q5',
      '0000',
      '0000-01',
      '10000',
      '2026-10-01',
      '2026-10-01..',
    ],
    ...[
      '..2026-10-01',
      '2026-02-30..2026-03-01',
      '2026-10-01..2026-10-31..2026-11-01',
      '2026-10 ',
      '2026-10\n',
      "2026'; --",
      'yesterday',
    ],
    ...['0000-01-01..0000-02-01', '2026-10-01..9999-99-99', '9'.repeat(5_000)],
  ])('%j is none', (text) => {
    expect(() => parsePeriod(text)).toThrow(
      expect.objectContaining({ code: 'REPORT_PERIOD_INVALID', message: expect.stringMatching(/^.{1,400}$/) }),
    );
  });

  it('that ends before it begins is told so', () => {
    expect(() => parsePeriod('2026-10-31..2026-10-01')).toThrow('ends before it begins');
  });

  it('of a month, a quarter or a year has the days of its months, and no more than 400 points are drawn of any', () => {
    const date = fc
      .date({ min: new Date('0001-01-01T00:00:00Z'), max: new Date('9999-12-31T00:00:00Z'), noInvalidDate: true })
      .map((each) => each.toISOString().slice(0, 10));
    fc.assert(
      fc.property(date, date, (one, other) => {
        const [firstDay = '', lastDay = ''] = [one, other].toSorted();
        const asked = parsePeriod(`${firstDay}..${lastDay}`);
        const step = stepOf(asked);
        const points = pointsOf([], { asked, step }, 'en-GB');
        expect(points.length).toBeGreaterThan(0);
        if (step !== 'year') expect(points.length).toBeLessThanOrEqual(420);
        const month = parsePeriod(firstDay.slice(0, 7));
        expect(new Date(Date.parse(month.lastDay) + 86_400_000).getUTCDate()).toBe(1);
        expect(month.lastDay.slice(0, 8)).toBe(month.firstDay.slice(0, 8));
      }),
    );
  });

  it('is drawn with the days on which nothing moved', () => {
    const asked = parsePeriod('2026-02-26..2026-03-02');
    const turnover = [{ day: '2026-02-28', debitedCents: 5n, entries: 2n }];
    expect(pointsOf(turnover, { asked, step: 'day' }, 'en-GB')).toEqual([
      { label: '26 Feb', cents: 0n },
      { label: '27 Feb', cents: 0n },
      { label: '28 Feb', cents: 5n },
      { label: '1 Mar', cents: 0n },
      { label: '2 Mar', cents: 0n },
    ]);
  });
});
