//! Which variable a name means. Jinja2 decides it before a template runs: a name belongs to the innermost frame that
//! assigns it, and a frame that assigns a name of an outer one begins with a copy of its value. Its rules are followed
//! here step by step (`jinja2.idtracking`, and where `jinja2.compiler` opens frames), because templates depend on them:
//! an assignment in a loop is gone in the next turn, and a variable that is assigned below its use in a loop is undefined
//! there even if the render call gave it.

use super::{
    ast::{CallArgs, Expr, ExprKind, For, Frame, Function, Load, Name, Piece, Slot, Stmt, Target},
    fault::{Fault, Outcome},
    filters, predicates,
    walk::{assigns, names, stores, undeclared},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// What is known of the names of one frame. Slots are named by function and index here, not yet relative.
#[derive(Debug, Clone, Default)]
struct Symbols {
    refs: HashMap<Arc<str>, Place>,
    loads: BTreeMap<u16, Known>,
    stores: BTreeSet<Arc<str>>,
}

/// A slot of the function that is `function` deep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    function: u16,
    index: u16,
}

#[derive(Debug, Clone)]
enum Known {
    Parameter,
    Resolve(Arc<str>),
    Alias(Place),
    Undefined,
}

/// A frame that is being looked at. The slots of its names are the same in all branches of a condition.
#[derive(Default)]
struct Level {
    symbols: Symbols,
    function: u16,
    places: HashMap<Arc<str>, u16>,
}

pub struct Resolver {
    levels: Vec<Level>,
    /// How many slots each of the functions around uses so far.
    functions: Vec<u16>,
    /// Whether an unknown filter is an error only where it is reached.
    soft: bool,
}

/// Resolves a template: the frame of its top level, and how many slots that needs.
///
/// # Errors
/// Filters and tests that there are not; an assignment to `loop` in a loop.
pub fn resolve(body: &mut [Stmt]) -> Outcome<(Frame, u16)> {
    let mut resolver = Resolver { levels: Vec::new(), functions: vec![0], soft: false };
    let frame = resolver.frame(|r| {
        r.visit_all(body);
        r.statements(body)
    })?;
    Ok((frame, resolver.functions[0]))
}

impl Resolver {
    /// Opens a frame, runs `inside`, and closes it.
    fn frame(&mut self, inside: impl FnOnce(&mut Self) -> Outcome<()>) -> Outcome<Frame> {
        let function = (self.functions.len() - 1) as u16;
        self.levels.push(Level { function, ..Level::default() });
        let soft = std::mem::take(&mut self.soft);
        inside(self)?;
        self.soft = soft;
        let level = self.levels.pop().unwrap_or_default();
        let loads = level.symbols.loads.into_iter().map(|(index, known)| {
            let load = match known {
                Known::Parameter => Load::Parameter,
                Known::Resolve(name) => Load::Resolve(name),
                Known::Alias(place) => Load::Alias(self.relative(place)),
                Known::Undefined => Load::Undefined,
            };
            (index, load)
        });
        Ok(Frame(loads.collect()))
    }

    /// Opens a function, runs `inside`, closes it, and says how many slots it needs.
    fn function<T>(&mut self, inside: impl FnOnce(&mut Self) -> Outcome<T>) -> Outcome<(T, u16)> {
        self.functions.push(0);
        let out = inside(self)?;
        let slots = self.functions.pop().unwrap_or(0);
        Ok((out, slots))
    }

    fn relative(&self, place: Place) -> Slot {
        Slot { out: (self.functions.len() - 1) as u16 - place.function, index: place.index }
    }

    fn top(&mut self) -> &mut Level {
        let last = self.levels.len() - 1;
        &mut self.levels[last]
    }

    /// Where a name lies, seen from the `depth` outermost frames.
    fn find(&self, name: &str, depth: usize) -> Option<Place> {
        self.levels[..depth].iter().rev().find_map(|level| level.symbols.refs.get(name).copied())
    }

    fn define(&mut self, name: &Arc<str>, known: Known) -> Place {
        let functions = &mut self.functions;
        let last = self.levels.len() - 1;
        let level = &mut self.levels[last];
        let next = &mut functions[level.function as usize];
        let index = *level.places.entry(name.clone()).or_insert_with(|| {
            // More slots than that would be a template of megabytes.
            *next = next.saturating_add(1);
            *next - 1
        });
        let place = Place { function: level.function, index };
        level.symbols.refs.insert(name.clone(), place);
        level.symbols.loads.insert(index, known);
        place
    }

    fn store(&mut self, name: &Arc<str>) {
        self.top().symbols.stores.insert(name.clone());
        if self.top().symbols.refs.contains_key(name) {
            return;
        }
        let known = self.find(name, self.levels.len() - 1).map_or(Known::Undefined, Known::Alias);
        self.define(name, known);
    }

    fn parameter(&mut self, name: &Arc<str>) -> Place {
        self.top().symbols.stores.insert(name.clone());
        self.define(name, Known::Parameter)
    }

    fn load(&mut self, name: &Arc<str>) {
        if self.find(name, self.levels.len()).is_none() {
            self.define(name, Known::Resolve(name.clone()));
        }
    }

    /// Puts together what the branches of a condition do to names.
    fn merge(&mut self, branches: Vec<Symbols>) {
        let mut stores: BTreeSet<Arc<str>> = branches.iter().flat_map(|b| b.stores.iter().cloned()).collect();
        let top = self.top();
        stores.retain(|name| !top.symbols.stores.contains(name));
        for branch in branches {
            top.symbols.refs.extend(branch.refs);
            top.symbols.loads.extend(branch.loads);
            top.symbols.stores.extend(branch.stores);
        }
        for name in stores {
            let Some(target) = self.find(&name, self.levels.len()) else { continue };
            let outer = self.find(&name, self.levels.len() - 1);
            let known = outer.map_or_else(|| Known::Resolve(name.clone()), Known::Alias);
            self.top().symbols.loads.insert(target.index, known);
        }
    }

    // What a frame's statements do to names, without the frames inside of them.

    fn visit_all(&mut self, statements: &[Stmt]) {
        for statement in statements {
            self.visit(statement);
        }
    }

    fn visit(&mut self, statement: &Stmt) {
        match statement {
            Stmt::Output(pieces) => {
                for piece in pieces {
                    if let Piece::Expr(e) = piece {
                        self.visit_expr(e);
                    }
                }
            }
            Stmt::Set { target, value, .. } => {
                self.visit_expr(value);
                self.visit_target(target, false);
            }
            Stmt::SetBlock { target, .. } => self.visit_target(target, false),
            Stmt::For { iterable, .. } => self.visit_expr(iterable),
            Stmt::If { branches, otherwise } => self.visit_if(branches, otherwise),
            Stmt::Macro { name, .. } => self.store(&name.name),
            Stmt::Call { call, .. } => self.visit_expr(call),
            Stmt::FilterBlock { filter, .. } => self.visit_expr(filter),
            Stmt::With { values, .. } => values.iter().for_each(|v| self.visit_expr(v)),
            Stmt::Generation(_) | Stmt::Break | Stmt::Continue => {}
        }
    }

    fn visit_if(&mut self, branches: &[(Expr, Vec<Stmt>)], otherwise: &[Stmt]) {
        let Some(((test, body), others)) = branches.split_first() else { return };
        self.visit_expr(test);
        let before = self.top().symbols.clone();
        let branch = |r: &mut Self, visit: &dyn Fn(&mut Self)| {
            visit(r);
            std::mem::replace(&mut r.top().symbols, before.clone())
        };
        let first = branch(self, &|r| r.visit_all(body));
        // Each `elif` counts as a condition of its own without further branches.
        let second = branch(self, &|r| others.iter().for_each(|other| r.visit_if(std::slice::from_ref(other), &[])));
        let third = branch(self, &|r| r.visit_all(otherwise));
        self.merge(vec![first, second, third]);
    }

    fn visit_expr(&mut self, expr: &Expr) {
        names(expr, &mut |name| self.load(name));
    }

    fn visit_target(&mut self, target: &Target, parameter: bool) {
        match target {
            Target::Name(name) if parameter => {
                self.parameter(&name.name);
            }
            Target::Name(name) => self.store(&name.name),
            Target::Attribute(name, _) => self.load(&name.name),
            Target::Tuple(targets) => targets.iter().for_each(|t| self.visit_target(t, parameter)),
        }
    }

    // Filling in the slots, frame by frame.

    fn slot(&self, name: &mut Name, line: u32) -> Outcome<()> {
        let place = self.find(&name.name, self.levels.len());
        let place = place.ok_or_else(|| Fault::at(line, format!("Jinja2 does not know '{}' here", name.name)))?;
        name.slot = self.relative(place);
        Ok(())
    }

    fn target(&self, target: &mut Target, line: u32) -> Outcome<()> {
        match target {
            Target::Name(name) | Target::Attribute(name, _) => self.slot(name, line),
            Target::Tuple(targets) => targets.iter_mut().try_for_each(|t| self.target(t, line)),
        }
    }

    fn statements(&mut self, statements: &mut [Stmt]) -> Outcome<()> {
        statements.iter_mut().try_for_each(|statement| self.statement(statement))
    }

    fn statement(&mut self, statement: &mut Stmt) -> Outcome<()> {
        match statement {
            Stmt::Output(pieces) => pieces.iter_mut().try_for_each(|piece| match piece {
                Piece::Expr(e) => self.expr(e),
                Piece::Data(_) => Ok(()),
            }),
            Stmt::Set { line, target, value } => {
                self.target(target, *line)?;
                self.expr(value)
            }
            Stmt::SetBlock { line, target, filter, body, frame } => {
                self.target(target, *line)?;
                *frame = self.frame(|r| {
                    r.visit_all(body);
                    r.statements(body)?;
                    filter.iter_mut().try_for_each(|f| r.expr(f))
                })?;
                Ok(())
            }
            Stmt::For { iterable, inner } => {
                self.expr(iterable)?;
                self.for_loop(unique(inner)?)
            }
            Stmt::If { branches, otherwise } => {
                let soft = std::mem::replace(&mut self.soft, true);
                for (test, body) in branches {
                    self.expr(test)?;
                    self.statements(body)?;
                }
                self.statements(otherwise)?;
                self.soft = soft;
                Ok(())
            }
            Stmt::Macro { name, function } => {
                let function = unique(function)?;
                self.slot(name, function.line)?;
                self.macro_body(function)
            }
            Stmt::Call { call, function } => {
                self.macro_body(unique(function)?)?;
                self.expr(call)
            }
            Stmt::Generation(function) => self.macro_body(unique(function)?),
            Stmt::FilterBlock { filter, body, frame } => {
                *frame = self.frame(|r| {
                    r.visit_all(body);
                    r.visit_expr(filter);
                    r.statements(body)?;
                    r.expr(filter)
                })?;
                Ok(())
            }
            Stmt::With { targets, values, body, frame } => {
                values.iter_mut().try_for_each(|v| self.expr(v))?;
                *frame = self.frame(|r| {
                    targets.iter().for_each(|t| r.visit_target(t, true));
                    r.visit_all(body);
                    targets.iter_mut().try_for_each(|t| r.target(t, 0))?;
                    r.statements(body)
                })?;
                Ok(())
            }
            Stmt::Break | Stmt::Continue => Ok(()),
        }
    }

    fn for_loop(&mut self, inner: &mut For) -> Outcome<()> {
        if assigns(&inner.target, "loop") || inner.body.iter().chain(&inner.otherwise).any(|s| stores(s, "loop")) {
            return Err(Fault::at(inner.line, "Can't assign to special loop variable in for-loop target"));
        }
        if let Some((target, test)) = &mut inner.test {
            inner.test_frame = self.frame(|r| {
                r.visit_target(target, true);
                r.visit_expr(test);
                r.target(target, inner.line)?;
                r.expr(test)
            })?;
        }
        if inner.recursive {
            let ((), slots) = self.function(|r| r.for_frames(inner))?;
            inner.slots = slots;
            return Ok(());
        }
        self.for_frames(inner)
    }

    fn for_frames(&mut self, inner: &mut For) -> Outcome<()> {
        inner.body_frame = self.frame(|r| {
            let place = r.parameter(&"loop".into());
            inner.loop_slot = r.relative(place);
            r.visit_target(&inner.target, true);
            r.visit_all(&inner.body);
            r.target(&mut inner.target, inner.line)?;
            r.statements(&mut inner.body)
        })?;
        inner.otherwise_frame = self.frame(|r| {
            r.visit_all(&inner.otherwise);
            r.statements(&mut inner.otherwise)
        })?;
        Ok(())
    }

    fn macro_body(&mut self, function: &mut Function) -> Outcome<()> {
        let ((), slots) = self.function(|r| {
            let frame = r.frame(|r| r.macro_frame(function))?;
            function.frame = frame;
            Ok(())
        })?;
        function.slots = slots;
        Ok(())
    }

    fn macro_frame(&mut self, function: &mut Function) -> Outcome<()> {
        let mut special: Vec<&str> = vec!["caller", "kwargs", "varargs"];
        let mut used = BTreeSet::new();
        undeclared(&function.body, &mut special, &mut used);
        for parameter in &function.parameters {
            self.parameter(&parameter.name);
        }
        let has = |name: &str| function.parameters.iter().position(|p| &*p.name == name);
        if let Some(at) = has("caller").filter(|_| used.contains("caller")) {
            if at + function.defaults.len() < function.parameters.len() {
                let message = "When defining macros or call blocks the special \"caller\" argument must be omitted or be \
                               given a default.";
                return Err(Fault::at(function.line, message));
            }
            return Err(Fault::unsupported("macros with a parameter `caller`").or_at(function.line));
        }
        for (name, slot) in
            [("caller", &mut function.caller), ("kwargs", &mut function.kwargs), ("varargs", &mut function.varargs)]
        {
            if used.contains(name) && !function.parameters.iter().any(|p| &*p.name == name) {
                let place = self.parameter(&name.into());
                *slot = Some(self.relative(place));
            }
        }
        function.defaults.iter().for_each(|d| self.visit_expr(d));
        self.visit_all(&function.body);
        for parameter in &mut function.parameters {
            self.slot(parameter, function.line)?;
        }
        function.defaults.iter_mut().try_for_each(|d| self.expr(d))?;
        self.statements(&mut function.body)
    }

    fn args(&mut self, args: &mut CallArgs) -> Outcome<()> {
        parts(args).into_iter().try_for_each(|e| self.expr(e))
    }

    fn expr(&mut self, expr: &mut Expr) -> Outcome<()> {
        let line = expr.line;
        match &mut expr.kind {
            ExprKind::Name(name) => self.slot(name, line),
            ExprKind::Filter(filter) => {
                filter.function = filters::find(&filter.name);
                if filter.function.is_none() && !self.soft {
                    return Err(Fault::at(line, format!("No filter named '{}'.", filter.name)));
                }
                filter.value.iter_mut().try_for_each(|v| self.expr(v))?;
                self.args(&mut filter.args)
            }
            ExprKind::Test(test) => {
                test.function = predicates::find(&test.name);
                if test.function.is_none() && !self.soft {
                    return Err(Fault::at(line, format!("No test named '{}'.", test.name)));
                }
                self.expr(&mut test.value)?;
                self.args(&mut test.args)
            }
            ExprKind::Condition { test, then, otherwise } => {
                let soft = std::mem::replace(&mut self.soft, true);
                self.expr(test)?;
                self.expr(then)?;
                otherwise.iter_mut().try_for_each(|e| self.expr(e))?;
                self.soft = soft;
                Ok(())
            }
            ExprKind::Call(value, args) => {
                self.expr(value)?;
                self.args(args)
            }
            ExprKind::Const(_) => Ok(()),
            ExprKind::Tuple(items) | ExprKind::List(items) | ExprKind::Concat(items) => {
                items.iter_mut().try_for_each(|e| self.expr(e))
            }
            ExprKind::Dict(pairs) => pairs.iter_mut().try_for_each(|(key, value)| {
                // Jinja2 folds constants before it renders, and so finds this even where it is never reached.
                if let ExprKind::List(_) | ExprKind::Dict(_) = key.kind {
                    return Err(Fault::at(line, "unhashable type: a list or a dict as a key"));
                }
                self.expr(key)?;
                self.expr(value)
            }),
            ExprKind::Or(a, b) | ExprKind::And(a, b) | ExprKind::Binary(_, a, b) | ExprKind::Item(a, b) => {
                self.expr(a)?;
                self.expr(b)
            }
            ExprKind::Not(e) | ExprKind::Negative(e) | ExprKind::Positive(e) | ExprKind::Attribute(e, _) => {
                self.expr(e)
            }
            ExprKind::Compare(first, rest) => {
                self.expr(first)?;
                rest.iter_mut().try_for_each(|(_, e)| self.expr(e))
            }
            ExprKind::Slice(slice) => {
                self.expr(&mut slice.value)?;
                let bounds = [&mut slice.start, &mut slice.stop, &mut slice.step];
                bounds.into_iter().flatten().try_for_each(|e| self.expr(e))
            }
        }
    }
}

/// The node, which nothing else holds while a template is resolved.
fn unique<T>(node: &mut Arc<T>) -> Outcome<&mut T> {
    Arc::get_mut(node).ok_or_else(|| Fault::new("a part of the template is used twice"))
}

fn parts(args: &mut CallArgs) -> Vec<&mut Expr> {
    let named = args.named.iter_mut().map(|(_, e)| e);
    let starred = args.star.as_deref_mut().into_iter().chain(args.double_star.as_deref_mut());
    args.positional.iter_mut().chain(named).chain(starred).collect()
}
