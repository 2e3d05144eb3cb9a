//! What a credential allows, as scopes: `resource:action` or `resource:id:action`.
//!
//! Matching compares whole parts. `*` as an id or an action matches exactly one part, never a `:`, and never a
//! resource. The invariant: a scope that is not understood grants nothing.

use std::fmt;
use std::sync::Arc;

/// Longest scope in bytes.
const SCOPE_BYTES_MAX: usize = 256;

/// The most scopes one credential can have.
pub const SCOPES_MAX: usize = 256;

/// The scope that allows everything, on every user's data.
pub const ADMIN: &str = "agent_os:admin";
const ADMIN_RESOURCE: &str = "agent_os";

/// The scope that reaches what the runs of all users ask, and nothing else of them.
pub const ALL_QUESTIONS: &str = "all_questions:answer";

/// The scope that allows, on every user's data, all that scopes of this resource allow; none where only [`ADMIN`] does.
pub fn for_all_users(resource: &str) -> Option<&'static str> {
    (resource == "questions").then_some(ALL_QUESTIONS)
}

/// A resource, what can be done with it, and whether a scope can name one of its ids.
pub struct Known {
    /// Its name.
    pub resource: &'static str,
    /// The actions.
    pub actions: &'static [&'static str],
    /// Whether `resource:id:action` means something.
    pub has_ids: bool,
    /// What its scopes are for.
    pub about: &'static str,
}

/// Every scope that some route requires, or takes instead. Any other grants nothing here.
pub const KNOWN: &[Known] = &[
    Known {
        resource: "runs",
        actions: &["read", "write", "delete"],
        has_ids: false,
        about: "runs, as outlive and outlive::Client ask for them",
    },
    Known {
        resource: "questions",
        actions: &["read", "answer"],
        has_ids: false,
        about: "what runs ask people, and answering it",
    },
    Known {
        resource: "all_questions",
        actions: &["answer"],
        has_ids: false,
        about: "both for the runs of all users, and nothing else of them",
    },
    Known {
        resource: "schedules",
        actions: &["read", "write"],
        has_ids: false,
        about: "schedules; creating one takes the scope of what it runs too",
    },
    Known {
        resource: "budgets",
        actions: &["raise"],
        has_ids: false,
        about: "adding to what budgets have, also with an answer",
    },
    Known {
        resource: "workflows",
        actions: &["read", "run"],
        has_ids: true,
        about: "workflows and their runs, as Agno's clients ask",
    },
    Known { resource: "agents", actions: &["read", "run"], has_ids: true, about: "the same for agents" },
    Known { resource: "teams", actions: &["read", "run"], has_ids: true, about: "the same for teams" },
    Known {
        resource: "sessions",
        actions: &["read", "write", "delete"],
        has_ids: false,
        about: "sessions and their runs",
    },
    Known { resource: "config", actions: &["read"], has_ids: false, about: "what the server serves" },
    Known { resource: "workers", actions: &["read"], has_ids: false, about: "which processes execute" },
    Known { resource: "metrics", actions: &["read"], has_ids: false, about: "metrics for Prometheus" },
    Known { resource: "audit", actions: &["read"], has_ids: false, about: "who did what" },
    Known { resource: "docs", actions: &["read"], has_ids: false, about: "the description of the API" },
    Known { resource: "agent_os", actions: &["admin"], has_ids: false, about: "everything, on every user's data" },
];

/// Every known scope that names no id, in the order of [`KNOWN`].
pub fn known() -> impl Iterator<Item = String> {
    let texts = |known: &'static Known| known.actions.iter().map(|action| format!("{}:{action}", known.resource));
    KNOWN.iter().flat_map(texts)
}

/// Whether a scope means something to this server: [`is_scope`], and some route asks for it.
pub fn is_known(text: &str) -> bool {
    let Some(Grant { resource, id, action }) = Grant::read(text) else { return false };
    let fits = |known: &Known| {
        let is_action = known.actions.contains(&action) || (action == "*" && resource != ADMIN_RESOURCE);
        known.resource == resource && is_action && (known.has_ids || id.is_none())
    };
    is_scope(text) && KNOWN.iter().any(fits)
}

/// A set of scopes. Empty allows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes(Arc<[Box<str>]>);

impl Scopes {
    /// From the texts of a token or a stored key. A text that is not a scope is left out, so it grants nothing.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        Self(texts.into_iter().filter(|text| is_scope(text)).map(Box::from).collect())
    }

    /// The scope that allows everything.
    pub fn admin() -> Self {
        Self::parse([ADMIN])
    }

    /// Whether everything is allowed.
    pub fn is_admin(&self) -> bool {
        self.0.iter().any(|scope| &**scope == ADMIN)
    }

    /// The scopes as texts.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|scope| &**scope)
    }

    /// Whether `action` on `resource` is allowed: with an `id` on that one, without on all of them.
    ///
    /// An id that contains `*` or `:` could be mistaken for a pattern; only a scope for the whole resource allows it.
    pub fn permits(&self, resource: &str, id: Option<&str>, action: &str) -> bool {
        let id = id.filter(|id| is_part(id));
        let asked = Grant { resource, id, action };
        self.is_admin() || self.grant(&asked) || self.permits_for_all_users(resource)
    }

    /// Whether everything that scopes of this resource allow is allowed on every user's data.
    pub fn permits_for_all_users(&self, resource: &str) -> bool {
        let wider = for_all_users(resource).and_then(Grant::read);
        self.is_admin() || wider.is_some_and(|wider| self.grant(&wider))
    }

    fn grant(&self, asked: &Grant<'_>) -> bool {
        self.iter().filter_map(Grant::read).any(|grant| grant.covers(asked))
    }

    /// Whether `action` is allowed on all of `resource` or on at least one id of it, which the caller then filters by.
    pub fn permits_some(&self, resource: &str, action: &str) -> bool {
        let fits = |grant: Grant<'_>| grant.resource == resource && part_covers(grant.action, action);
        self.is_admin() || self.iter().filter_map(Grant::read).any(fits)
    }

    /// Whether everything that `others` allow is allowed by these: what a caller may hand on.
    pub fn covers(&self, others: &Scopes) -> bool {
        let covered = |other: Grant<'_>| self.grant(&other);
        self.is_admin() || others.iter().filter_map(Grant::read).all(covered)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = self.iter().collect();
        formatter.write_str(&texts.join(" "))
    }
}

/// Whether the text has the form of a scope.
pub fn is_scope(text: &str) -> bool {
    text.len() <= SCOPE_BYTES_MAX && Grant::read(text).is_some()
}

/// One scope, taken apart.
struct Grant<'a> {
    resource: &'a str,
    /// Absent: all of the resource.
    id: Option<&'a str>,
    action: &'a str,
}

impl<'a> Grant<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.splitn(4, ':').collect();
        let (resource, id, action) = match parts[..] {
            [resource, action] => (resource, None, action),
            [resource, id, action] => (resource, Some(id), action),
            _ => return None,
        };
        let patterns = id.into_iter().chain([action]);
        let well_formed = is_part(resource) && patterns.into_iter().all(|part| part == "*" || is_part(part));
        well_formed.then_some(Self { resource, id, action })
    }

    fn covers(&self, asked: &Grant<'_>) -> bool {
        let id = match (self.id, asked.id) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(pattern), Some(id)) => part_covers(pattern, id),
        };
        self.resource == asked.resource && id && part_covers(self.action, asked.action)
    }
}

fn part_covers(pattern: &str, part: &str) -> bool {
    pattern == "*" || pattern == part
}

/// A plain part: printable, without the characters that mean something in a scope or between scopes.
fn is_part(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '*' && c != ':')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a holder of `scope` may do `action` on the workflow `id`.
    fn may(scope: &str, id: Option<&str>, action: &str) -> bool {
        Scopes::parse([scope]).permits("workflows", id, action)
    }

    #[test]
    fn a_scope_for_the_resource_covers_each_id() {
        assert!(may("workflows:run", Some("fn-pipeline"), "run"));
        assert!(may("workflows:run", None, "run"));
        assert!(!may("workflows:run", Some("fn-pipeline"), "read"));
    }

    #[test]
    fn bad_b09_a_scope_for_one_id_covers_no_other() {
        assert!(may("workflows:fn-pipeline:run", Some("fn-pipeline"), "run"));
        assert!(!may("workflows:fn-pipeline:run", Some("echo"), "run"));
        assert!(!may("workflows:fn-pipeline:run", None, "run"));
        assert!(!may("workflows:fn-pipeline:run", Some("fn-pipeline"), "read"));
        assert!(!may("agents:read", Some("fn-pipeline"), "run"));
        assert!(!may("workflows:fn:run", Some("fn-pipeline"), "run"));
        assert!(!may("Workflows:run", None, "run"));
    }

    #[test]
    fn bad_b09_an_id_that_looks_like_a_pattern_fits_no_scope_for_ids() {
        for id in ["*", "a:b", "fn-pipeline:run", "", "a b", "a\nb"] {
            assert!(!may("workflows:*:run", Some(id), "run"), "{id:?}");
            assert!(!may("workflows:fn-pipeline:run", Some(id), "run"), "{id:?}");
            assert!(may("workflows:run", Some(id), "run"), "{id:?}");
        }
        // `%2A` that the router left encoded is an ordinary, unknown id.
        assert!(!may("workflows:fn-pipeline:run", Some("%2A"), "run"));
    }

    #[test]
    fn a_star_stands_for_one_part_only() {
        assert!(may("workflows:*", Some("x"), "run"));
        assert!(may("workflows:x:*", Some("x"), "read"));
        assert!(!may("workflows:x:*", Some("y"), "read"));
        assert!(!may("workflows:*:run", None, "run"));
        for nothing in ["*", "*:*", "*:run", "workflows", "workflows:", ":run", "workflows:a:b:run", "workflows:f*:run"]
        {
            assert!(!may(nothing, Some("fn"), "run"), "{nothing}");
        }
    }

    #[test]
    fn admin_is_exactly_one_scope() {
        assert!(may(ADMIN, Some("x"), "run") && Scopes::admin().is_admin());
        for nothing in ["agent_os:*", "agent_os:x:admin", "agent_os:*:admin", "AGENT_OS:admin", " agent_os:admin"] {
            assert!(!Scopes::parse([nothing]).is_admin(), "{nothing}");
        }
    }

    #[test]
    fn a_scope_is_known_if_some_route_asks_for_it_as_it_is() {
        for text in ["runs:read", "runs:*", "workflows:run", "workflows:echo:run", "agents:*:read", ADMIN] {
            assert!(is_known(text), "{text}");
        }
        for text in
            ["banana:peel", "runs:run", "runs:run-1:read", "agent_os:*", "workflow:run", "runs:read,runs:write", "*"]
        {
            assert!(!is_known(text), "{text}");
        }
        assert!(known().all(|text| is_known(&text)));
    }

    #[test]
    fn whoever_answers_for_all_users_may_do_nothing_else_for_them() {
        for scope in [ALL_QUESTIONS, "all_questions:*"] {
            let scopes = Scopes::parse([scope]);
            assert!(
                scopes.permits("questions", None, "read") && scopes.permits("questions", None, "answer"),
                "{scope}"
            );
            assert!(scopes.permits_for_all_users("questions"), "{scope}");
            for resource in ["runs", "sessions", "workflows", "budgets"] {
                assert!(!scopes.permits(resource, None, "read"), "{scope} {resource}");
                assert!(!scopes.permits_for_all_users(resource), "{scope} {resource}");
            }
        }
        // What was granted before there was such a scope grants no more than it did.
        for scope in ["questions:*", "questions:answer", "all_questions:x:answer", "all_questions:read"] {
            assert!(!Scopes::parse([scope]).permits_for_all_users("questions"), "{scope}");
        }
    }

    #[test]
    fn a_list_is_open_to_a_scope_for_one_id() {
        let scopes = Scopes::parse(["workflows:echo:read"]);
        assert!(scopes.permits_some("workflows", "read"));
        assert!(!scopes.permits_some("workflows", "run") && !scopes.permits_some("agents", "read"));
    }

    #[test]
    fn nobody_hands_on_more_than_they_have() {
        let own = Scopes::parse(["workflows:run", "keys:admin"]);
        assert!(own.covers(&Scopes::parse(["workflows:echo:run", "workflows:run"])));
        assert!(!own.covers(&Scopes::parse(["workflows:*"])));
        assert!(!own.covers(&Scopes::admin()));
        assert!(!Scopes::parse(["workflows:echo:run"]).covers(&Scopes::parse(["workflows:*:run"])));
        assert!(!Scopes::parse(["workflows:echo:run"]).covers(&Scopes::parse(["workflows:run"])));
        assert!(Scopes::parse(["workflows:*:run"]).covers(&Scopes::parse(["workflows:echo:run"])));
    }
}
