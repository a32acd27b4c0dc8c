import { MICROS_PER_DAY, type Micros } from '../../economy/calendar.ts';
import { countOf, each, part, type Recipes, type Row, rest } from './recipe.ts';
import { ownEvents, someOrganization } from './tenants.ts';
import { REMARKS } from './words.ts';
import { itemOf, type World } from './world.ts';

interface Participant {
  readonly type: 'user' | 'organization';
  readonly userId: string;
  /** The key wants one of users too: the organization that they write to, or the one under their own id. */
  readonly orgId: string;
}

interface ConversationFacts {
  readonly id: string;
  readonly at: Micros;
  readonly participants: readonly [Participant, Participant];
}

const FIRST_TALK: Micros = Date.UTC(2024, 3, 1) * 1_000;
const conversations = countOf('direct_conversations');

function conversationOf(world: World, index: number): ConversationFacts {
  return world.recall('direct_conversations', index, (random, id) => {
    const at = FIRST_TALK + random.below(550) * MICROS_PER_DAY;
    return { id, at, participants: participantsOf(world, random, index % 10) };
  });
}

// Of ten, seven are between somebody and an organization, two between organizations, one between two people.
function participantsOf(world: World, random: Row['random'], kind: number): [Participant, Participant] {
  const own = ownEvents(world);
  if (kind === 9 && own.length > 1) {
    const first = random.below(own.length);
    const [a, b] = [itemOf(own, first), itemOf(own, first + 1)];
    return [
      { type: 'user', userId: a, orgId: a },
      { type: 'user', userId: b, orgId: b },
    ];
  }
  const organization = someOrganization({ world, random });
  const spokenFor: Participant = {
    type: 'organization',
    userId: itemOf(organization.members, random.below(3)).userId,
    orgId: organization.id,
  };
  if (kind < 7 || world.given.organizations.length < 2) {
    return [{ type: 'user', userId: world.busyPerson(random), orgId: organization.id }, spokenFor];
  }
  const organizations = world.given.organizations;
  const other = itemOf(organizations, organization.index + 1 + random.below(organizations.length - 1));
  return [spokenFor, { type: 'organization', userId: other.ownerId, orgId: other.id }];
}

const ofConversation = (row: Row, index: number): ConversationFacts => {
  const conversation = conversationOf(row.world, index);
  row.at = conversation.at;
  return conversation;
};

export const MESSAGES: Recipes = {
  direct_conversations: part(
    200,
    (row) => {
      const { participants } = ofConversation(row, row.index);
      return {
        created_by: participants[0].userId,
        subject: row.random.oneIn(3) ? null : row.random.pick(['Lost property', 'Sponsorship', 'Guest list']),
        last_message_at: null,
        metadata: '{}',
      };
    },
    10,
  ),
  conversation_participants: each(
    conversations,
    () => 2,
    (row) => {
      const conversation = ofConversation(row, row.parent);
      const { type, userId, orgId } = itemOf(conversation.participants, row.nth);
      return {
        conversation_id: conversation.id,
        participant_type: type,
        participant_user_id: userId,
        participant_org_id: orgId,
      };
    },
  ),
  direct_messages: part(1_200, (row) => {
    const conversation = ofConversation(row, row.world.popular(row.random, conversations(row.world)));
    row.at += row.random.below(20 * 86_400) * 1_000_000;
    const { type, userId, orgId } = itemOf(conversation.participants, row.random.below(2));
    return {
      conversation_id: conversation.id,
      sender_type: type,
      sender_user_id: userId,
      sender_org_id: type === 'organization' ? orgId : null,
      body: row.random.pick(REMARKS),
      attachments: null,
      status: row.random.pick(['sent', 'delivered', 'read']),
    };
  }),
  notifications: rest(6, (row) => {
    row.at = FIRST_TALK + row.random.below(600 * 86_400) * 1_000_000;
    const kind = row.random.pick(['order', 'follow', 'comment', 'reminder']);
    return {
      user_id: row.world.busyPerson(row.random),
      title: `Something new: ${kind}`,
      message: row.random.pick(REMARKS),
      type: row.random.pick(['info', 'info', 'success', 'warning', 'error']),
      event_type: kind,
    };
  }),
};
