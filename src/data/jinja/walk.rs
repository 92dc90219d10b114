//! What names a tree has.

use super::ast::{CallArgs, Expr, ExprKind, Piece, Stmt, Target};
use std::{collections::BTreeSet, sync::Arc};

/// Calls `found` for each name that an expression reads.
pub fn names(expr: &Expr, found: &mut dyn FnMut(&Arc<str>)) {
    let args = |value: Option<&Expr>, args: &CallArgs, found: &mut dyn FnMut(&Arc<str>)| {
        let named = args.named.iter().map(|(_, e)| e);
        let starred = args.star.as_deref().into_iter().chain(args.double_star.as_deref());
        let all = value.into_iter().chain(&args.positional).chain(named).chain(starred);
        all.for_each(|e| names(e, found));
    };
    match &expr.kind {
        ExprKind::Name(name) => found(&name.name),
        ExprKind::Const(_) => {}
        ExprKind::Tuple(items) | ExprKind::List(items) | ExprKind::Concat(items) => {
            items.iter().for_each(|e| names(e, found));
        }
        ExprKind::Dict(pairs) => pairs.iter().for_each(|(key, value)| {
            names(key, found);
            names(value, found);
        }),
        ExprKind::Condition { test, then, otherwise } => {
            [Some(test), Some(then), otherwise.as_ref()].into_iter().flatten().for_each(|e| names(e, found));
        }
        ExprKind::Or(a, b) | ExprKind::And(a, b) | ExprKind::Binary(_, a, b) | ExprKind::Item(a, b) => {
            names(a, found);
            names(b, found);
        }
        ExprKind::Not(e) | ExprKind::Negative(e) | ExprKind::Positive(e) | ExprKind::Attribute(e, _) => names(e, found),
        ExprKind::Compare(first, rest) => {
            names(first, found);
            rest.iter().for_each(|(_, e)| names(e, found));
        }
        ExprKind::Slice(slice) => {
            let bounds = [&slice.start, &slice.stop, &slice.step];
            names(&slice.value, found);
            bounds.into_iter().flatten().for_each(|e| names(e, found));
        }
        ExprKind::Call(value, given) => args(Some(value), given, found),
        ExprKind::Filter(filter) => args(filter.value.as_deref(), &filter.args, found),
        ExprKind::Test(test) => args(Some(&test.value), &test.args, found),
    }
}

/// Whether a target assigns a variable of that name.
pub fn assigns(target: &Target, wanted: &str) -> bool {
    match target {
        Target::Name(name) => &*name.name == wanted,
        Target::Attribute(..) => false,
        Target::Tuple(targets) => targets.iter().any(|t| assigns(t, wanted)),
    }
}

/// Whether a statement, or one inside of it, assigns a variable of that name.
pub fn stores(statement: &Stmt, wanted: &str) -> bool {
    let any = |statements: &[Stmt]| statements.iter().any(|s| stores(s, wanted));
    match statement {
        Stmt::Set { target, .. } => assigns(target, wanted),
        Stmt::SetBlock { target, body, .. } => assigns(target, wanted) || any(body),
        Stmt::For { inner, .. } => assigns(&inner.target, wanted) || any(&inner.body) || any(&inner.otherwise),
        Stmt::If { branches, otherwise } => branches.iter().any(|(_, body)| any(body)) || any(otherwise),
        Stmt::Macro { function, .. } | Stmt::Call { function, .. } | Stmt::Generation(function) => any(&function.body),
        Stmt::FilterBlock { body, .. } | Stmt::With { body, .. } => any(body),
        Stmt::Output(_) | Stmt::Break | Stmt::Continue => false,
    }
}

/// Which of `wanted` the statements read before they assign it, in the order in which they stand.
pub fn undeclared<'n>(statements: &[Stmt], wanted: &mut Vec<&'n str>, used: &mut BTreeSet<&'n str>) {
    for statement in statements {
        let mut read = |expr: &Expr, wanted: &Vec<&'n str>| {
            names(expr, &mut |name| used.extend(wanted.iter().find(|w| **w == &**name)));
        };
        match statement {
            Stmt::Output(pieces) => pieces.iter().for_each(|piece| {
                if let Piece::Expr(e) = piece {
                    read(e, wanted);
                }
            }),
            Stmt::Set { target, value, .. } => {
                // Jinja2 looks at the target first.
                wanted.retain(|w| !assigns(target, w));
                read(value, wanted);
            }
            Stmt::SetBlock { target, filter, body, .. } => {
                wanted.retain(|w| !assigns(target, w));
                filter.iter().for_each(|f| read(f, wanted));
                undeclared(body, wanted, used);
            }
            Stmt::For { iterable, inner } => {
                wanted.retain(|w| !assigns(&inner.target, w));
                read(iterable, wanted);
                undeclared(&inner.body, wanted, used);
                undeclared(&inner.otherwise, wanted, used);
                if let Some((_, test)) = &inner.test {
                    names(test, &mut |name| used.extend(wanted.iter().find(|w| **w == &**name)));
                }
            }
            Stmt::If { branches, otherwise } => {
                for (test, body) in branches {
                    names(test, &mut |name| used.extend(wanted.iter().find(|w| **w == &**name)));
                    undeclared(body, wanted, used);
                }
                undeclared(otherwise, wanted, used);
            }
            Stmt::Macro { function, .. } | Stmt::Generation(function) => {
                wanted.retain(|w| !function.parameters.iter().any(|p| &*p.name == *w));
                function.defaults.iter().for_each(|d| read(d, wanted));
                undeclared(&function.body, wanted, used);
            }
            Stmt::Call { call, function } => {
                read(call, wanted);
                wanted.retain(|w| !function.parameters.iter().any(|p| &*p.name == *w));
                function.defaults.iter().for_each(|d| read(d, wanted));
                undeclared(&function.body, wanted, used);
            }
            Stmt::FilterBlock { filter, body, .. } => {
                undeclared(body, wanted, used);
                names(filter, &mut |name| used.extend(wanted.iter().find(|w| **w == &**name)));
            }
            Stmt::With { targets, values, body, .. } => {
                wanted.retain(|w| !targets.iter().any(|t| assigns(t, w)));
                values.iter().for_each(|v| read(v, wanted));
                undeclared(body, wanted, used);
            }
            Stmt::Break | Stmt::Continue => {}
        }
    }
}
