import { DAY, DAYS, type Examples } from './examples.ts';

export const PARTITIONS: Examples = {
  'attach-with-default-partition': {
    bad: [
      [
        'attached',
        [
          `${DAYS} create table days_rest partition of days default;`,
          'alter table days attach partition d for values in (1);',
        ],
        ['2.sql:1:1'],
      ],
      ['created', [`${DAYS} create table days_rest partition of days default;`, DAY], ['2.sql:1:1']],
      [
        'with a check that nobody validated',
        [
          `${DAYS} create table days_rest partition of days default;`,
          'alter table days_rest add constraint k check (id > 1) not valid;\nalter table days attach partition d for values in (1);',
        ],
        ['2.sql:2:1'],
      ],
    ],
    good: [
      [
        'with a check that is valid from the start',
        [
          `${DAYS} create table days_rest partition of days default;`,
          'alter table days_rest add check (id > 1);',
          'alter table days attach partition d for values in (1);',
        ],
      ],
      [
        'with a validated check',
        [
          `${DAYS} create table days_rest partition of days default;`,
          'alter table days_rest add constraint k check (id > 1) not valid;',
          'alter table days_rest validate constraint k;',
          'alter table days attach partition d for values in (1);',
        ],
      ],
      ['without a default partition', [DAYS, 'alter table days attach partition d for values in (1);']],
      [
        'one that is new',
        `${DAYS} create table days_rest partition of days default; alter table days attach partition d for values in (1);`,
      ],
      [
        'one that was dropped',
        [
          `${DAYS} create table days_rest partition of days default;`,
          'drop table days_rest; alter table days attach partition d for values in (1);',
        ],
      ],
    ],
  },
  'partition-created-in-place': {
    bad: [['of a table in use', [DAYS, DAY], ['2.sql:1:1']]],
    good: [
      ['of one of its own', `${DAYS} ${DAY}`],
      [
        'attached',
        [
          DAYS,
          'create table days_1 (like days including all); alter table days attach partition days_1 for values in (1);',
        ],
      ],
      ['inherited', [DAYS, 'create table d () inherits (a);']],
    ],
  },
};
