//! Identifiers: each its own type, parsed once at the edge.
//!
//! Ids are text. Those we make are UUIDs: a run's is version 7, so sorting by id is sorting by time; ids *inside* a run
//! are version 5, derived from the run's id and a path, so that a recovered run finds the same ids without having
//! stored them. A version 7 id needs a clock and randomness, which this crate does not have: the caller passes both.

use crate::failure::InvalidId;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use uuid::Uuid;

/// Longest id accepted from outside, in bytes.
pub const ID_LEN_MAX: usize = 128;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $words:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Accepts 1 to [`ID_LEN_MAX`] bytes of text without white space or control characters.
            ///
            /// # Errors
            /// [`InvalidId`] names the kind of id and what is wrong with it.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                check($what, text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The same for an id that somebody chooses: it must also have an address of its own, as `/api/runs/ID` is a
            /// run's. What is stored is read with [`Self::parse`].
            ///
            /// # Errors
            /// The same, and when no server could be asked for what has this id.
            pub fn chosen(text: &str) -> Result<Self, InvalidId> {
                let id = Self::parse(text)?;
                check_address($what, text, $words)?;
                Ok(id)
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The same text, shared.
            pub fn to_shared(&self) -> Arc<str> {
                self.0.clone()
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.to_string()
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id!(
    /// One execution of a workflow, or of an agent or team inside one. Agno's `run_id`.
    RunId,
    "run id",
    &RunId::WORDS
);
text_id!(
    /// The conversation a run belongs to. Agno's `session_id`; any text the user likes that [`SessionId::chosen`] takes.
    SessionId,
    "session id",
    &[]
);
text_id!(
    /// One process that executes runs, for as long as it lives.
    WorkerId,
    "worker id",
    &[]
);
text_id!(
    /// A workflow, agent or team: the [`slug`] of its name unless chosen. Agno's `workflow_id`, `agent_id`, `team_id`.
    DefinitionId,
    "definition id",
    &DefinitionId::WORDS
);

impl RunId {
    /// What stands in the place of a run's id in addresses of servers, such as `/api/runs/cancel`, and can be no run's.
    pub const WORDS: [&str; 3] = ["cancel", "rerun", "retry"];

    /// A new id for a run accepted at `at`. `chance` must be fresh random bits: equal arguments give equal ids.
    pub fn new(at: Timestamp, chance: u128) -> Self {
        Self(uuid_v7(at, chance))
    }

    /// When the run was accepted, in whole milliseconds, if its id says so.
    pub(crate) fn accepted_at(&self) -> Option<Timestamp> {
        let id = Uuid::try_parse(&self.0).ok().filter(|id| id.get_version_num() == 7)?;
        let millis = i64::try_from(id.as_u128() >> 80).ok()?;
        Some(Timestamp::from_micros(millis.saturating_mul(1_000)))
    }

    /// Where there is no run.
    pub(crate) fn none() -> Self {
        Self(Arc::from(""))
    }

    /// The id of something inside this run, found again from its path alone.
    ///
    /// ```
    /// use outlive_core::RunId;
    /// let run = RunId::parse("0193-example").unwrap();
    /// assert_eq!(run.derive("0/step"), run.derive("0/step"));
    /// assert_ne!(run.derive("0/step"), run.derive("1/step"));
    /// ```
    pub fn derive(&self, path: &str) -> Arc<str> {
        uuid_text(self.derive_uuid(path))
    }

    fn derive_uuid(&self, path: &str) -> Uuid {
        let mut name = String::with_capacity(self.0.len() + 1 + path.len());
        name.push_str(&self.0);
        name.push('/');
        name.push_str(path);
        Uuid::new_v5(&NAMESPACE, name.as_bytes())
    }

    /// [`RunId::derive`] as bytes.
    pub(crate) fn derive_bytes(&self, path: &str) -> [u8; 16] {
        self.derive_uuid(path).into_bytes()
    }

    /// The bytes of an id that is a UUID, written as we write them.
    pub(crate) fn uuid_bytes(&self) -> Option<[u8; 16]> {
        uuid_bytes(&self.0)
    }

    /// A hash of `text`, to compare requests by. Equal texts have equal fingerprints.
    pub fn fingerprint(text: &str) -> String {
        Uuid::new_v5(&NAMESPACE, text.as_bytes()).simple().to_string()
    }

    /// [`RunId::derive`] as the id of a run nested in this one (an agent's, a team's, a member's).
    pub fn derive_run(&self, path: &str) -> RunId {
        RunId(self.derive(path))
    }
}

impl SessionId {
    /// A new session for a run that named none. See [`RunId::new`] for the arguments.
    pub fn new(at: Timestamp, chance: u128) -> Self {
        Self(uuid_v7(at, chance))
    }
}

impl WorkerId {
    /// A new worker. See [`RunId::new`] for the arguments.
    pub fn new(at: Timestamp, chance: u128) -> Self {
        Self(uuid_v7(at, chance))
    }
}

impl DefinitionId {
    /// What stands in the place of an id in addresses of servers, such as `/workflows/ws`, and can be none.
    pub const WORDS: [&str; 1] = ["ws"];

    /// The id Agno gives a thing of this name, see [`slug`].
    ///
    /// # Errors
    /// When the slug of the name is empty.
    pub fn from_name(name: &str) -> Result<Self, InvalidId> {
        Self::parse(&slug(name))
    }
}

/// The namespace of derived ids (a random constant, fixed for ever).
const NAMESPACE: Uuid = Uuid::from_u128(0x6f75_746c_6976_4e5a_9c1d_52e8_30ab_77f4);

fn uuid_v7(at: Timestamp, chance: u128) -> Arc<str> {
    let millis = u64::try_from(at.as_micros() / 1000).unwrap_or(0);
    let mut bytes = [0u8; 10];
    bytes.copy_from_slice(&chance.to_be_bytes()[..10]);
    uuid_text(uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid())
}

/// The bytes of a UUID written as we write them; none for any other text.
pub(crate) fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let id = Uuid::try_parse(text).ok()?;
    (!id.is_nil() && id.hyphenated().encode_lower(&mut [0; 36]) == text).then(|| id.into_bytes())
}

/// The UUID of these bytes, as we write it.
pub(crate) fn from_uuid_bytes(bytes: [u8; 16]) -> Arc<str> {
    uuid_text(Uuid::from_bytes(bytes))
}

fn uuid_text(id: Uuid) -> Arc<str> {
    Arc::from(&*id.hyphenated().encode_lower(&mut [0; 36]))
}

fn check(what: &'static str, text: &str) -> Result<(), InvalidId> {
    let problem = if text.is_empty() {
        "is empty".to_owned()
    } else if text.len() > ID_LEN_MAX {
        format!("has {} bytes, the limit is {ID_LEN_MAX}", text.len())
    } else if let Some(bad) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
        format!("contains {bad:?}")
    } else {
        return Ok(());
    };
    Err(InvalidId { what, problem, remedy: "give 1 to 128 bytes of text without white space" })
}

/// Refuses what cannot stand in an address, where clients and proxies take dots, slashes and semicolons for themselves.
fn check_address(what: &'static str, text: &str, words: &[&str]) -> Result<(), InvalidId> {
    let (problem, remedy) = if let Some(bad) = text.chars().find(|c| "/\\;".contains(*c)) {
        (format!("contains {bad:?}"), "it stands in addresses, so leave out / \\ and ;")
    } else if text.bytes().all(|byte| byte == b'.') {
        ("consists of dots alone".to_owned(), "it stands in addresses, so add a letter or a digit")
    } else if words.contains(&text) {
        (format!("is {text:?}"), "servers have an address of this name, so choose another")
    } else {
        return Ok(());
    };
    Err(InvalidId { what, problem, remedy })
}

/// A name as an id, the way Agno makes one: lower case, runs of anything but letters and digits become one `-`.
///
/// ```
/// assert_eq!(outlive_core::slug("Content Creation Workflow"), "content-creation-workflow");
/// ```
pub fn slug(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars().flat_map(char::to_lowercase) {
        if c.is_alphanumeric() {
            out.push(c);
        } else if !out.is_empty() && !out.ends_with('-') {
            out.push('-');
        }
    }
    out.truncate(out.trim_end_matches('-').len());
    out
}
