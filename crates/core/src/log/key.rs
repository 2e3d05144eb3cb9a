//! The names of steps and calls inside a run, and their one grammar.
//!
//! ```text
//! key   = step *( "/" part )
//! step  = number [ "~" attempt ]            the step's place among its siblings, from 0; attempts from 2
//! part  = step                              inside a container
//!       | "i" number                        an iteration of a loop, from 1
//!       | "b" number [ "~" attempt ]        a branch of a Parallel, from 0
//!       | "c" number [ "~" attempt ]        a choice of a Router, from 0; after a call: the workflow that it has executed
//!       | "e" number [ "~" attempt ]        an item of a ForEach, from 0
//!       | "if" | "else" | "w"               the sequences of a Condition, the steps of a nested workflow
//!       | "agent" | "team"                  the conversation of a step's agent or team, or of one alone
//!       | "t" number                        a turn of a conversation, from 0
//!       | number                            after a turn: a call of that turn, from 0
//!       | "m" [ number ]                    the conversation of the member to which that call delegates; of one of
//!                                           several, from 0
//!       | "k:" name                         what a function names itself
//!       | "q" number                        a question to people, from 0
//!       | "lead"                            the agent that leads the run
//!       | word                              something recorded once: started, history, tools, content, done, error,
//!                                           paused, continued, again, over, raised, steered; pre and post with a number: a
//!                                           hook, from 0; f with a number: a turn's fallback model, from 1; begun
//!                                           with a number: an answer that goes on at its provider, from 0;
//!                                           "summary" before a conversation of its own
//! ```
//! Tools hand keys to other people's services, so a key never changes: what exists keeps its text for ever.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, LazyLock};

/// The stable name of a step or a call inside a run: its path in the definition, then turn and call. Prefixed with the
/// run's id, it is the key handed to tools: the same across crashes and processes.
///
/// ```
/// use outlive_core::log::{Key, Part};
///
/// let key = Key::step(2).attempt(2).speaker("team").turn(0).call(1).member().turn(3);
/// assert_eq!(key.as_str(), "2~2/team/t0/1/m/t3");
/// assert_eq!(key.parts().last(), Some(Part::Turn(3)));
/// assert_eq!(key.attempt_number(), 1, "of a turn there is one");
/// assert!(key.is_inside(&Key::step(2).attempt(2)));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(Arc<str>);

/// One part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part<'a> {
    /// A node of the definition: where it stands, and which attempt at it this is, from 1.
    Node {
        /// Where.
        place: Place,
        /// Which attempt.
        attempt: u32,
    },
    /// An iteration of a loop, from 1.
    Iteration(u32),
    /// The sequence a Condition has chosen: `if` or `else`; `w` for the steps of a nested workflow.
    Sequence(&'a str),
    /// The conversation of an agent or a team: `agent` or `team`.
    Speaker(&'a str),
    /// A turn of it, from 0.
    Turn(u32),
    /// A call of that turn, from 0.
    Call(u32),
    /// The conversation of the member to which a call delegates.
    Member,
    /// The same where a call delegates to several, from 0.
    MemberOf(u32),
    /// What a function names itself.
    Named(&'a str),
    /// A question to people, from 0.
    Question(u32),
    /// Something recorded once.
    Word(&'a str),
}

/// Where a node stands among its siblings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a sequence.
    Step(u32),
    /// In a Parallel.
    Branch(u32),
    /// In a Router.
    Choice(u32),
    /// In a ForEach.
    Item(u32),
}

impl Place {
    /// The number of the place.
    pub fn number(self) -> u32 {
        match self {
            Place::Step(place) | Place::Branch(place) | Place::Choice(place) | Place::Item(place) => place,
        }
    }
}

impl Key {
    /// A key from its text.
    pub fn parse(text: impl AsRef<str>) -> Self {
        Self(Arc::from(text.as_ref()))
    }

    /// The run itself: what all its keys are inside of.
    pub fn run() -> Self {
        static RUN: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));
        Self(RUN.clone())
    }

    /// The step at this place of a workflow, from 0.
    pub fn step(place: u32) -> Self {
        Self::run().node(Place::Step(place))
    }

    /// The agent that leads a run, beside its steps.
    pub fn leader() -> Self {
        static LEADER: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("lead"));
        Self(LEADER.clone())
    }

    /// The conversation of an agent or team that runs alone.
    pub fn alone(speaker: &str) -> Self {
        Self::run().speaker(speaker)
    }

    /// A node inside this one.
    pub fn node(&self, place: Place) -> Self {
        match place {
            Place::Step(place) => self.join(place),
            Place::Branch(place) => self.join(format_args!("b{place}")),
            Place::Choice(place) => self.join(format_args!("c{place}")),
            Place::Item(place) => self.join(format_args!("e{place}")),
        }
    }

    /// The same node, at this attempt, from 1.
    pub fn attempt(&self, attempt: u32) -> Self {
        let first = self.first_attempt();
        if attempt <= 1 && first.len() == self.0.len() {
            return self.clone();
        }
        if attempt <= 1 { Self(Arc::from(first)) } else { Self(Arc::from(format!("{first}~{attempt}"))) }
    }

    /// A loop's iteration, from 1.
    pub fn iteration(&self, iteration: u32) -> Self {
        self.join(format_args!("i{iteration}"))
    }

    /// The sequence that a Condition has chosen (`if`, `else`), or the steps of a nested workflow (`w`).
    pub fn sequence(&self, name: &str) -> Self {
        self.join(name)
    }

    /// The conversation of this step's agent or team: `agent` or `team`.
    pub fn speaker(&self, kind: &str) -> Self {
        self.join(kind)
    }

    /// A turn of this conversation, from 0.
    pub fn turn(&self, turn: u32) -> Self {
        self.join(format_args!("t{turn}"))
    }

    /// A call of this turn, from 0.
    pub fn call(&self, call: u32) -> Self {
        self.join(call)
    }

    /// The conversation of the member to which this call delegates.
    pub fn member(&self) -> Self {
        self.join("m")
    }

    /// The conversation of one of the members to which this call delegates, from 0.
    pub fn member_of(&self, number: u32) -> Self {
        self.join(format_args!("m{number}"))
    }

    /// The same turn of a model that stands in for the one before, from 1; 0 is the turn itself.
    #[must_use]
    pub fn fallback(&self, number: usize) -> Self {
        if number == 0 { self.clone() } else { self.join(format_args!("f{number}")) }
    }

    /// Whether it is a model's answer in a turn: of the agent's own model, or of one that stands in for it.
    pub(crate) fn is_answer(&self) -> bool {
        match self.parts().last() {
            Some(Part::Turn(_)) => true,
            Some(Part::Word(word)) => {
                let number = word.strip_prefix('f').and_then(|number| number.parse().ok());
                number.is_some_and(|number| self.outer().is_some_and(|turn| turn.fallback(number) == *self))
            }
            _ => false,
        }
    }

    /// An answer to this model call that goes on at its provider while nobody listens, from 0.
    pub fn begun(&self, number: u32) -> Self {
        self.join(format_args!("begun{number}"))
    }

    /// What a hook made of this conversation's input (`pre`) or output (`post`), from 0.
    pub fn hook(&self, when: &'static str, number: usize) -> Self {
        self.join(format_args!("{when}{number}"))
    }

    /// The conversation whose hook this is about, if it is about one.
    pub(crate) fn hooked(&self) -> Option<Self> {
        let word = match self.parts().last() {
            Some(Part::Word(word)) => word,
            _ => return None,
        };
        let number = word.strip_prefix("pre").or_else(|| word.strip_prefix("post"))?;
        number.parse::<u32>().ok().and_then(|_| self.outer())
    }

    /// Whether this is about a hook after a run.
    pub(crate) fn is_post_hook(&self) -> bool {
        self.hooked().is_some() && self.0.rsplit_once('/').is_some_and(|(_, word)| word.starts_with("post"))
    }

    /// What this step's function calls `name`.
    pub fn named(&self, name: &str) -> Self {
        self.join(format_args!("k:{name}"))
    }

    /// A question to people about this, from 0.
    pub fn question(&self, number: u32) -> Self {
        self.join(format_args!("q{number}"))
    }

    /// Whether this is a branch of a Parallel, or an item of a ForEach: what stands beside others at the same time.
    pub(crate) fn is_branch(&self) -> bool {
        self.branch().is_some()
    }

    /// Whether this is a workflow that a call has executed.
    pub(crate) fn is_called(&self) -> bool {
        // Most keys are short.
        if !self.0.contains("/t") {
            return false;
        }
        let last = self.parts().fold([None, None], |[_, before], part| [before, Some(part)]);
        matches!(last, [Some(Part::Call(_)), Some(Part::Node { place: Place::Choice(_), .. })])
    }

    /// Whether this stands directly in the run.
    pub(crate) fn is_top(&self) -> bool {
        !self.0.contains('/')
    }

    /// Whether this stands directly in a workflow, the run's own or a nested one.
    pub(crate) fn is_direct(&self) -> bool {
        self.0.rsplit_once('/').is_none_or(|(outer, _)| outer.ends_with("/w"))
    }

    /// Which branch or item this is.
    pub(crate) fn branch(&self) -> Option<u32> {
        if self.is_top() {
            return None;
        }
        match self.parts().last() {
            Some(Part::Node { place: Place::Branch(place) | Place::Item(place), .. }) => Some(place),
            _ => None,
        }
    }

    /// Whether this is something that a function named itself.
    pub fn is_named(&self) -> bool {
        self.0.contains("/k:")
    }

    /// Something recorded once inside this.
    pub fn word(&self, word: &'static str) -> Self {
        self.join(word)
    }

    fn join(&self, part: impl fmt::Display) -> Self {
        if self.0.is_empty() {
            Self(Arc::from(part.to_string()))
        } else {
            Self(Arc::from(format!("{}/{part}", self.0)))
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its parts, outermost first.
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let mut after_turn = false;
        let mut rest = Some(&*self.0).filter(|text| !text.is_empty());
        std::iter::from_fn(move || {
            let text = rest?;
            // A name may contain slashes, and is the last part.
            let (part, left) = match text.split_once('/').filter(|_| !text.starts_with("k:")) {
                Some((part, left)) => (part, Some(left)),
                None => (text, None),
            };
            rest = left;
            let part = Part::read(part, after_turn);
            after_turn = matches!(part, Part::Turn(_));
            Some(part)
        })
    }

    /// Which of two comes first in the definition; the order of keys as such is that of their texts.
    pub(crate) fn in_order(&self, other: &Key) -> Ordering {
        self.parts().cmp(other.parts())
    }

    /// What this is inside of; none for the run.
    pub fn outer(&self) -> Option<Key> {
        if self.0.is_empty() {
            return None;
        }
        let name = self.0.find("/k:");
        let end = name.or_else(|| self.0.rfind('/'));
        Some(end.map_or_else(Self::run, |end| Self(Arc::from(&self.0[..end]))))
    }

    /// Whether this is inside `outer`, at any depth.
    pub fn is_inside(&self, outer: &Key) -> bool {
        match self.0.strip_prefix(&*outer.0) {
            Some(rest) => !rest.is_empty() && (outer.0.is_empty() || rest.starts_with('/')),
            None => false,
        }
    }

    /// Which attempt at its node this is, from 1.
    pub fn attempt_number(&self) -> u32 {
        match self.parts().last() {
            Some(Part::Node { attempt, .. }) => attempt,
            _ => 1,
        }
    }

    /// The path that a node's id is made from. A step has the same id in every iteration and attempt, a container
    /// another in each iteration; inside a nested workflow, the path begins there.
    pub(crate) fn id_path(&self, with_iterations: bool) -> String {
        if self.is_top() {
            return self.first_attempt().to_owned();
        }
        let mut path = String::new();
        for (part, text) in self.parts().zip(self.0.split('/')) {
            let text = match part {
                Part::Sequence("w") => {
                    path.clear();
                    continue;
                }
                Part::Iteration(_) if !with_iterations => continue,
                Part::Node { attempt: 2.., .. } => text.split_once('~').map_or(text, |(place, _)| place),
                _ => text,
            };
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(text);
        }
        path
    }

    /// Without the attempt of its last part.
    fn first_attempt(&self) -> &str {
        match self.parts().last() {
            Some(Part::Node { attempt: 2.., .. }) => self.0.rsplit_once('~').map_or(&*self.0, |(first, _)| first),
            _ => &self.0,
        }
    }
}

impl<'a> Part<'a> {
    fn read(text: &'a str, after_turn: bool) -> Self {
        let number = |prefix: &str| text.strip_prefix(prefix)?.parse::<u32>().ok();
        let node = |text: &str, place: fn(u32) -> Place| {
            let (place_text, attempt) = match text.split_once('~') {
                Some((place, attempt)) => (place, attempt.parse().ok()?),
                None => (text, 1),
            };
            Some(Part::Node { place: place(place_text.parse().ok()?), attempt })
        };
        let known = match text.as_bytes().first() {
            _ if after_turn && number("").is_some() => number("").map(Part::Call),
            Some(b'0'..=b'9') => node(text, Place::Step),
            Some(b'b') => node(&text[1..], Place::Branch),
            Some(b'c') => node(&text[1..], Place::Choice),
            Some(b't') => number("t").map(Part::Turn),
            Some(b'i') => number("i").map(Part::Iteration),
            Some(b'e') => node(&text[1..], Place::Item),
            Some(b'q') => number("q").map(Part::Question),
            Some(b'm') => number("m").map(Part::MemberOf),
            _ => None,
        };
        known.unwrap_or_else(|| match text {
            "m" => Part::Member,
            "agent" | "team" => Part::Speaker(text),
            "if" | "else" | "w" => Part::Sequence(text),
            _ => text.strip_prefix("k:").map_or(Part::Word(text), Part::Named),
        })
    }
}

impl Default for Key {
    fn default() -> Self {
        Self::run()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key there was before containers, and one of each new kind, byte for byte.
    #[test]
    fn every_part_is_written_and_read() {
        let agent = Key::step(0).speaker("agent");
        let call = Key::step(1).attempt(3).speaker("team").turn(0).call(1);
        let node = |place, attempt| Part::Node { place, attempt };
        let loops = Key::step(2).iteration(3).node(Place::Step(0));
        let table: Vec<(Key, &str, Part<'_>)> = vec![
            (Key::step(0), "0", node(Place::Step(0), 1)),
            (Key::step(0).attempt(2), "0~2", node(Place::Step(0), 2)),
            (Key::step(0).attempt(2).attempt(3), "0~3", node(Place::Step(0), 3)),
            (Key::step(0).attempt(2).attempt(1), "0", node(Place::Step(0), 1)),
            (agent.clone(), "0/agent", Part::Speaker("agent")),
            (agent.turn(12), "0/agent/t12", Part::Turn(12)),
            (agent.turn(0).call(7), "0/agent/t0/7", Part::Call(7)),
            (agent.word("started"), "0/agent/started", Part::Word("started")),
            (agent.word("content"), "0/agent/content", Part::Word("content")),
            (agent.turn(0).call(7).word("error"), "0/agent/t0/7/error", Part::Word("error")),
            (call.member(), "1~3/team/t0/1/m", Part::Member),
            (call.member_of(12), "1~3/team/t0/1/m12", Part::MemberOf(12)),
            (agent.turn(3).fallback(0), "0/agent/t3", Part::Turn(3)),
            (agent.turn(3).fallback(2), "0/agent/t3/f2", Part::Word("f2")),
            (agent.hook("pre", 0), "0/agent/pre0", Part::Word("pre0")),
            (agent.hook("post", 12), "0/agent/post12", Part::Word("post12")),
            (call.member().word("done"), "1~3/team/t0/1/m/done", Part::Word("done")),
            (call.member().turn(1).call(0), "1~3/team/t0/1/m/t1/0", Part::Call(0)),
            (Key::alone("team").turn(0), "team/t0", Part::Turn(0)),
            (Key::run().node(Place::Step(4)), "4", node(Place::Step(4), 1)),
            (loops.clone(), "2/i3/0", node(Place::Step(0), 1)),
            (loops.attempt(2), "2/i3/0~2", node(Place::Step(0), 2)),
            (Key::step(2).iteration(3), "2/i3", Part::Iteration(3)),
            (Key::step(1).node(Place::Branch(4)).attempt(2), "1/b4~2", node(Place::Branch(4), 2)),
            (Key::step(1).node(Place::Choice(0)), "1/c0", node(Place::Choice(0), 1)),
            (Key::step(1).node(Place::Item(9_999)).attempt(2), "1/e9999~2", node(Place::Item(9_999), 2)),
            (Key::step(1).sequence("else"), "1/else", Part::Sequence("else")),
            (Key::step(1).sequence("w").node(Place::Step(0)), "1/w/0", node(Place::Step(0), 1)),
            (Key::step(1).named("a/b~2"), "1/k:a/b~2", Part::Named("a/b~2")),
            (Key::step(1).question(0), "1/q0", Part::Question(0)),
            (agent.turn(0).call(7).question(1), "0/agent/t0/7/q1", Part::Question(1)),
        ];
        for (key, text, last) in table {
            assert_eq!(key.as_str(), text);
            assert_eq!(key.parts().last(), Some(last), "{text}");
        }
        assert_eq!(Key::run().parts().count(), 0);
    }

    #[test]
    fn a_key_knows_what_it_is_inside_of() {
        let step = Key::step(1);
        assert!(step.speaker("agent").turn(0).is_inside(&step) && step.is_inside(&Key::run()));
        assert!(!Key::step(10).is_inside(&step) && !step.attempt(2).is_inside(&step) && !step.is_inside(&step));
        assert_eq!(step.speaker("agent").turn(0).outer(), Some(step.speaker("agent")));
        assert_eq!((step.outer(), Key::run().outer()), (Some(Key::run()), None));
        assert_eq!(step.named("a/b").outer(), Some(step.clone()));
        let agent = step.speaker("agent");
        assert_eq!(
            [agent.hook("pre", 0), agent.hook("post", 7)].map(|key| key.hooked()),
            [Some(agent.clone()), Some(agent)]
        );
        for other in [step.named("pre0"), step.speaker("agent").word("previous"), Key::parse("pre0/1"), Key::run()] {
            assert_eq!(other.hooked(), None, "{other}");
        }
        assert_eq!((step.attempt(4).attempt_number(), step.named("x~2").attempt_number()), (4, 1));
    }
}
