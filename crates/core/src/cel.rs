//! Expressions in CEL, the Common Expression Language: what a condition, a router, a loop or a ForEach asks instead of
//! a function.
//!
//! It knows which variables exist at each of these places, never where their values come from. The invariant: an
//! expression that was compiled refers to nothing unknown, and evaluating it ends, whatever the values are.
//!
//! # Variables
//!
//! In a [`Scope::Condition`], a [`Scope::Router`] and [`Scope::Items`]:
//!
//! | Variable | Type | What it holds |
//! |---|---|---|
//! | `input` | string | the run's input; JSON text if it is no text |
//! | `input_data` | any | the same as JSON: a map has its fields; text that is a JSON map or list is read, other text stays text |
//! | `previous_step_content` | string | the output of the step before; JSON text if it is no text, empty if there is none |
//! | `previous_step_outputs` | map of strings | the same of every step so far, by the step's name |
//! | `additional_data` | map | what the run was given besides its input; empty if nothing |
//! | `session_state` | map | the session's state; empty if there is none |
//! | `step_choices` | list of strings | only in a router: the names of the steps to choose from, in order |
//!
//! In a [`Scope::EndCondition`]:
//!
//! | Variable | Type | What it holds |
//! |---|---|---|
//! | `current_iteration` | int | how many iterations are done: 1 after the first |
//! | `max_iterations` | int | how many there may be |
//! | `all_success` | bool | whether every step of this iteration succeeded |
//! | `last_step_content` | string | the output of this iteration's last step; JSON text if it is no text, empty if there is none |
//! | `step_outputs` | map of strings | the same of every step of this iteration, by the step's name |
//!
//! # Language
//!
//! A condition and an end condition must give true or false, a router a name or a list of names, a ForEach a list. What
//! certainly gives something else, such as a sum, does not compile; what depends on values fails when it is evaluated.
//!
//! All operators of CEL; `has`, `all`, `exists`, `exists_one`, `map`, `filter`; `size`, `contains`, `startsWith`,
//! `endsWith`, `matches`; `bool`, `bytes`, `double`, `dyn`, `int`, `string`, `type`, `uint`. There are no time stamps, no
//! durations, no optional values and no messages. In the patterns of `matches`, classes such as `\d` and `\w` are ASCII.
//! Walking a map takes its keys in order.
//!
//! # Limits
//!
//! An expression may have [`Cel::TEXT_MAX`] bytes and be nested [`Cel::NESTING_MAX`] levels deep. What it may do grows
//! with the size of its variables, so any walk over them is allowed; walks within walks, and text appended to itself, are
//! stopped after about a million steps.

mod budget;
mod check;
mod convert;
mod kinds;
mod syntax;

use self::syntax::excerpt;
use crate::json;
use ::cel::{Context, Env, ExecutionError, IdedExpr};
use serde_json::{Map, Value};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

/// What an expression that is compiled on the caller's stack may have: brackets and alternatives, and marks and spaces of any
/// kind.
const PLAIN_NESTED_MAX: usize = 2;
const PLAIN_MARKS_MAX: usize = 8;

/// A depth whose evaluation fits the caller's stack: a level takes up to 50 KiB in a debug build.
const EASY_DEPTH: usize = 8;

/// How much of an expression a message shows, in characters.
const SHOWN: usize = 200;

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib().with_optional_support(false);
    budget::declare(&mut env).expect("no function of ours has a name of the library's");
    Arc::new(env)
});

/// Where an expression stands, which decides what it can refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A condition's evaluator.
    Condition,
    /// A router's selector.
    Router,
    /// A loop's end condition.
    EndCondition,
    /// The items of a ForEach.
    Items,
}

impl Scope {
    /// The names of the variables that exist there.
    pub fn variables(self) -> &'static [&'static str] {
        const ROUTER: &[&str] = &[
            "input",
            "input_data",
            "previous_step_content",
            "previous_step_outputs",
            "additional_data",
            "session_state",
            "step_choices",
        ];
        match self {
            Scope::Router => ROUTER,
            Scope::Condition | Scope::Items => &ROUTER[..6],
            Scope::EndCondition => {
                &["current_iteration", "max_iterations", "all_success", "last_step_content", "step_outputs"]
            }
        }
    }
}

impl Scope {
    /// The kind of a variable; a name has the same one wherever it exists.
    fn kind_of(name: &str) -> Option<kinds::Kind> {
        Some(match name {
            "input" | "previous_step_content" | "last_step_content" => "string",
            "previous_step_outputs" | "additional_data" | "session_state" | "step_outputs" => "map",
            "step_choices" => "list",
            "current_iteration" | "max_iterations" => "int",
            "all_success" => "bool",
            _ => return None,
        })
    }

    /// What an expression there must give: in words, and as kinds.
    fn wanted(self) -> (&'static str, &'static [kinds::Kind]) {
        match self {
            Scope::Condition | Scope::EndCondition => ("true or false", &["bool"]),
            Scope::Router => ("a name or a list of names", &["string", "list"]),
            Scope::Items => ("a list", &["list"]),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scope::Condition => "a condition",
            Scope::Router => "a router's selector",
            Scope::EndCondition => "a loop's end condition",
            Scope::Items => "the items of a ForEach",
        })
    }
}

/// A compiled expression. A copy shares everything.
#[derive(Clone)]
pub struct Cel(Arc<Compiled>);

struct Compiled {
    text: String,
    expr: IdedExpr,
    /// The variables it reads.
    reads: Vec<&'static str>,
    depth: usize,
}

impl Cel {
    /// The longest expression, in bytes.
    pub const TEXT_MAX: usize = 4096;

    /// How deeply brackets, calls and alternatives may be nested.
    pub const NESTING_MAX: u16 = 48;

    /// Compiles an expression and checks that all it refers to exists.
    ///
    /// # Errors
    /// [`CelError::Invalid`] with every mistake and where it is.
    pub fn compile(text: &str, scope: Scope) -> Result<Cel, CelError> {
        let invalid = |mistakes| CelError::Invalid { text: excerpt(text, SHOWN), mistakes };
        if text.len() > Self::TEXT_MAX {
            let message =
                format!("it has {} bytes, and may have {}: use a function instead", text.len(), Self::TEXT_MAX);
            return Err(invalid(vec![Mistake { line: 1, column: 1, message }]));
        }
        let work = || guarded(|| check::compile(text, scope));
        let compiled = if is_plain(text) { Ok(work()) } else { json::with_room(work) };
        let compiled = compiled.unwrap_or_else(|error| Err(format!("it cannot be compiled: no thread: {error}")));
        let compiled = compiled.map_err(|problem| CelError::Failed { text: excerpt(text, SHOWN), problem })?;
        compiled.map(|compiled| Cel(Arc::new(compiled))).map_err(invalid)
    }

    /// The expression as it was written.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The texts that it may give and that are written out in it: as a whole, as one of several, or in a list.
    pub fn texts(&self) -> Vec<&str> {
        check::texts(&self.0.expr)
    }

    /// Evaluates the expression with these variables; those it does not read may be absent.
    ///
    /// # Errors
    /// [`CelError::Failed`] when it cannot be evaluated, or gives what JSON cannot hold.
    pub fn evaluate(&self, variables: &Map<String, Value>) -> Result<Value, CelError> {
        let reads = self.0.reads.iter().map(|name| match variables.get(*name) {
            Some(value) => Ok((*name, value)),
            None => Err(format!("`{name}` has no value")),
        });
        let given = reads.collect::<Result<Vec<_>, _>>().and_then(|reads| {
            let work = || guarded(|| evaluate(&self.0.expr, &reads)).and_then(|given| given);
            if self.0.depth <= EASY_DEPTH && reads.iter().all(|(_, value)| json::is_easy(value)) {
                return work();
            }
            json::with_room(work).unwrap_or_else(|error| Err(format!("no thread: {error}")))
        });
        given.map_err(|problem| self.failed(problem))
    }

    /// Evaluates an expression that decides something.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate), and when it gives anything but true or false.
    pub fn evaluate_bool(&self, variables: &Map<String, Value>) -> Result<bool, CelError> {
        match self.evaluate(variables)? {
            Value::Bool(verdict) => Ok(verdict),
            other => Err(self.failed(format!("it gives {}, but must give true or false", kind(&other)))),
        }
    }

    /// Evaluates an expression that chooses: one name or a list of them.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate), and when it gives anything but text or a list of texts.
    pub fn evaluate_names(&self, variables: &Map<String, Value>) -> Result<Vec<String>, CelError> {
        let wrong = |kind: &str| self.failed(format!("it gives {kind}, but must give a name or a list of names"));
        match self.evaluate(variables)? {
            Value::String(name) => Ok(vec![name]),
            Value::Array(items) => {
                let names = items.into_iter().map(|item| match item {
                    Value::String(name) => Ok(name),
                    other => Err(wrong(&format!("a list with {} in it", kind(&other)))),
                });
                names.collect()
            }
            other => Err(wrong(kind(&other))),
        }
    }

    /// Evaluates an expression that lists the items of a ForEach.
    ///
    /// # Errors
    /// As [`evaluate`](Self::evaluate), and when it gives anything but a list.
    pub fn evaluate_list(&self, variables: &Map<String, Value>) -> Result<Vec<Value>, CelError> {
        match self.evaluate(variables)? {
            Value::Array(items) => Ok(items),
            other => Err(self.failed(format!("it gives {}, but must give a list", kind(&other)))),
        }
    }

    fn failed(&self, problem: String) -> CelError {
        CelError::Failed { text: excerpt(&self.0.text, SHOWN), problem }
    }
}

impl fmt::Debug for Cel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cel").field(&self.0.text).finish()
    }
}

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CelError {
    /// It cannot be compiled.
    #[error("the CEL expression `{text}` is invalid: {}", Mistakes(mistakes))]
    Invalid {
        /// The expression, cut if it is long.
        text: String,
        /// What is wrong, in the order of the text; at least one.
        mistakes: Vec<Mistake>,
    },
    /// It cannot be evaluated with these values, none of which the message shows.
    #[error("the CEL expression `{text}` failed: {problem}")]
    Failed {
        /// The expression, cut if it is long.
        text: String,
        /// Why.
        problem: String,
    },
}

/// One mistake in an expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} column {column}: {message}")]
pub struct Mistake {
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
}

struct Mistakes<'a>(&'a [Mistake]);

impl fmt::Display for Mistakes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            write!(f, "{}{mistake}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// Whether hardly anything can be nested in it. The parser takes up to 180 KiB of stack for each level of brackets and
/// alternatives; every other level takes an operator.
fn is_plain(text: &str) -> bool {
    let nests = |byte: &u8| b"([{?".contains(byte);
    let is_mark = |byte: &u8| byte.is_ascii_whitespace() || byte.is_ascii_punctuation() && *byte != b'_';
    text.bytes().filter(nests).count() <= PLAIN_NESTED_MAX && text.bytes().filter(is_mark).count() <= PLAIN_MARKS_MAX
}

/// Runs the library, and takes a panic of it for an error.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| "the library for CEL panicked: please report it".to_owned())
}

fn evaluate(expr: &IdedExpr, variables: &[(&'static str, &Value)]) -> Result<Value, String> {
    let values: Vec<_> = variables.iter().map(|(name, value)| (*name, convert::from_json(value))).collect();
    budget::fill(values.iter().map(|(_, value)| value.as_ref()));
    let mut context = Context::with_env(Arc::clone(&ENV));
    for (name, value) in values {
        context.add_variable_as_val(name, value);
    }
    let given = ::cel::Value::resolve(expr, &context);
    if budget::is_spent() {
        return Err("it takes too much work: walk shorter lists, or use a function instead".to_owned());
    }
    convert::to_json(given.map_err(|error| problem(&error))?)
}

/// What went wrong, without the values: they may be private.
fn problem(error: &ExecutionError) -> String {
    use ExecutionError as E;
    match error {
        E::NoSuchKey(key) => {
            format!("there is no key `{}`: ask with `has()`, or with `in`, whether it is there", excerpt(key, SHOWN))
        }
        E::NoSuchOverload(overload) => syntax::not_for(overload.function(), overload.argument_types()),
        E::UnexpectedType { got, want } => format!("{want} is needed, and this is {got}"),
        E::UnsupportedBinaryOperator(_, left, right) => {
            let kinds = [left.type_of().to_string(), right.type_of().to_string()];
            format!("this operator cannot take {} and {}", kinds[0], kinds[1])
        }
        E::ValuesNotComparable(left, right) => {
            format!("{} and {} cannot be compared", left.type_of(), right.type_of())
        }
        E::UnsupportedKeyType(value) => format!("{} cannot be the key of a map", value.type_of()),
        E::UnsupportedIndex(index, of) => format!("{} is not an index of {}", index.type_of(), of.type_of()),
        E::IndexOutOfBounds(_) => "an index is out of bounds: ask with `size()` how long the list is".to_owned(),
        E::DivisionByZero(_) | E::RemainderByZero(_) => "a division by zero".to_owned(),
        E::Overflow(..) => "a number does not fit in 64 bits".to_owned(),
        E::DuplicateKey(_) => "a map has the same key twice".to_owned(),
        E::FunctionError { function, message } if function == "matches" => message.clone(),
        E::FunctionError { function, .. } => format!("`{function}()` cannot convert this value"),
        E::UndeclaredReference(name) => format!("`{name}` is unknown"),
        _ => "it does not fit these values".to_owned(),
    }
}

/// A JSON value's kind, with an article.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a bool",
        Value::Number(number) if number.is_f64() => "a double",
        Value::Number(_) => "an int",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}
