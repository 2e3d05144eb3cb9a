//! Which kind of value a part of an expression certainly gives, known without evaluating it.
//!
//! It knows the kinds of the variables, never a value. The invariant: it says nothing that an evaluation could
//! contradict; where a kind depends on values, it is silent.

use super::Scope;
use ::cel::IdedExpr;
use ::cel::common::ast::{CallExpr, Expr, LiteralValue, operators};

/// The name of a kind as the evaluator's errors have it.
pub(super) type Kind = &'static str;

/// Kinds that can be calculated with and compared with one another.
const NUMBERS: [Kind; 3] = ["int", "uint", "double"];

/// The kind an expression gives; `locals` are names of items, which hide variables.
pub(super) fn of(expr: &IdedExpr, locals: &[&str]) -> Option<Kind> {
    match &expr.expr {
        Expr::Literal(literal) => Some(match literal {
            LiteralValue::Boolean(_) => "bool",
            LiteralValue::Bytes(_) => "bytes",
            LiteralValue::Double(_) => "double",
            LiteralValue::Int(_) => "int",
            LiteralValue::Null => "null",
            LiteralValue::String(_) => "string",
            LiteralValue::UInt(_) => "uint",
        }),
        Expr::Ident(name) if !locals.contains(&name.as_str()) => Scope::kind_of(name.trim_start_matches('.')),
        Expr::List(_) => Some("list"),
        Expr::Map(_) => Some("map"),
        Expr::Select(select) if select.test => Some("bool"),
        Expr::Call(call) => of_call(call, locals),
        // `all` and `exists` begin with a bool, `map` and `filter` with a list; `exists_one` ends with a comparison.
        Expr::Comprehension(walk) => match &walk.result.expr {
            Expr::Ident(_) => of(&walk.accu_init, locals),
            _ => of(&walk.result, locals),
        },
        Expr::Ident(_) | Expr::Select(_) | Expr::Struct(_) | Expr::Unspecified => None,
    }
}

fn of_call(call: &CallExpr, locals: &[&str]) -> Option<Kind> {
    let arg = |at: usize| call.args.get(at).and_then(|arg| of(arg, locals));
    match call.func_name.as_str() {
        operators::CONDITIONAL => arg(1).filter(|kind| arg(2) == Some(kind)),
        operators::LOGICAL_AND
        | operators::LOGICAL_OR
        | operators::LOGICAL_NOT
        | operators::EQUALS
        | operators::NOT_EQUALS
        | operators::LESS
        | operators::LESS_EQUALS
        | operators::GREATER
        | operators::GREATER_EQUALS
        | operators::IN
        | "contains"
        | "startsWith"
        | "endsWith"
        | "matches"
        | "bool" => Some("bool"),
        operators::ADD | operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE | operators::MODULO => {
            arg(0).filter(|kind| arg(1) == Some(kind))
        }
        operators::NEGATE => arg(0),
        "size" | "int" => Some("int"),
        "uint" => Some("uint"),
        "double" => Some("double"),
        "string" => Some("string"),
        "bytes" => Some("bytes"),
        _ => None,
    }
}

/// Why a call certainly fails, whatever the values are.
pub(super) fn misfit(call: &CallExpr, locals: &[&str]) -> Option<Vec<String>> {
    let kinds: Vec<_> = call.target.as_deref().into_iter().chain(&call.args).map(|part| of(part, locals)).collect();
    let known =
        |kinds: &[Option<Kind>]| -> Option<Vec<String>> { kinds.iter().map(|kind| kind.map(str::to_owned)).collect() };
    let fits = match (call.func_name.as_str(), &kinds[..]) {
        (
            operators::LESS | operators::LESS_EQUALS | operators::GREATER | operators::GREATER_EQUALS,
            [Some(left), Some(right)],
        ) => {
            let both = |kind: Kind| *left == kind && *right == kind;
            let numbers = NUMBERS.contains(left) && NUMBERS.contains(right);
            numbers || both("string") || both("bool") || both("bytes")
        }
        (operators::ADD, [Some(left), Some(right)]) => {
            left == right && (NUMBERS.contains(left) || ["string", "bytes", "list"].contains(left))
        }
        (operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE, [Some(left), Some(right)]) => {
            left == right && NUMBERS.contains(left)
        }
        (operators::LOGICAL_NOT, [Some(kind)]) => *kind == "bool",
        ("contains" | "startsWith" | "endsWith" | "matches", [Some(text), Some(part)]) => {
            (*text, *part) == ("string", "string")
        }
        (operators::IN, [Some(_), Some(within)]) => ["list", "map"].contains(within),
        _ => true,
    };
    if fits { None } else { known(&kinds) }
}

/// Parts of an expression that it may give as a whole, and that are certainly of none of these kinds.
pub(super) fn others<'e>(expr: &'e IdedExpr, wanted: &[Kind]) -> Vec<(&'e IdedExpr, Kind)> {
    match &expr.expr {
        Expr::Call(call) if call.func_name == operators::CONDITIONAL => {
            call.args.iter().skip(1).flat_map(|branch| others(branch, wanted)).collect()
        }
        _ => of(expr, &[]).filter(|kind| !wanted.contains(kind)).map(|kind| (expr, kind)).into_iter().collect(),
    }
}
