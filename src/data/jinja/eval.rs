//! Evaluates expressions.

use super::{
    access,
    args::Args,
    ast::{CallArgs, Const, Expr, ExprKind, Filter},
    fault::{Fault, Outcome},
    interpreter::{Activation, Flow, Interpreter},
    methods, operators,
    shared::{self, Shared},
    text,
    value::{Builtin, Dict, Macro, Value},
};
use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};

impl Interpreter<'_> {
    /// The value of an expression.
    ///
    /// # Errors
    /// What Jinja2 or Python raise; what irori does not render.
    pub fn eval(&mut self, expr: &Expr, env: &Shared<Activation>) -> Outcome<Value> {
        self.enter().map_err(|f| f.or_at(expr.line))?;
        let value = match &expr.kind {
            ExprKind::Const(constant) => Ok(match constant {
                Const::None => Value::None,
                Const::Bool(b) => Value::Bool(*b),
                Const::Int(i) => Value::Int(*i),
                Const::Float(x) => Value::Float(*x),
                Const::Str(s) => Value::Str(s.clone()),
            }),
            ExprKind::Name(name) => env.get(name.slot).map(|found| {
                let value = found.unwrap_or_else(|| Value::undefined(format!("'{}' is undefined", name.name)));
                self.read_state |= matches!(value, Value::Namespace(_) | Value::Cycler(_) | Value::Joiner(_));
                value
            }),
            ExprKind::Attribute(value, name) => self.eval(value, env).and_then(|value| access::attribute(&value, name)),
            ExprKind::Call(..) => self.eval_call(expr, None, env),
            ExprKind::Filter(filter) => self.eval_filter(filter, env),
            _ => self.eval_composed(expr, env),
        };
        self.leave();
        value.and_then(|value| charged(expr, value)).map_err(|f| f.or_at(expr.line))
    }

    fn eval_all(&mut self, items: &[Expr], env: &Shared<Activation>) -> Outcome<Vec<Value>> {
        items.iter().map(|item| self.eval(item, env)).collect()
    }

    fn eval_composed(&mut self, expr: &Expr, env: &Shared<Activation>) -> Outcome<Value> {
        match &expr.kind {
            ExprKind::Tuple(items) => self.eval_all(items, env).map(Value::tuple),
            ExprKind::List(items) => self.eval_all(items, env).map(Value::list),
            ExprKind::Dict(pairs) => {
                let mut dict = Dict::default();
                for (key, value) in pairs {
                    let key = self.eval(key, env)?;
                    let value = self.eval(value, env)?;
                    key.check_hashable()?;
                    dict.insert(key, value);
                }
                Ok(Value::Dict(Shared::new(dict)))
            }
            ExprKind::Condition { test, then, otherwise } => {
                if self.eval(test, env)?.is_true() {
                    return self.eval(then, env);
                }
                match otherwise {
                    Some(otherwise) => self.eval(otherwise, env),
                    None => Ok(Value::undefined(format!(
                        "the inline if-expression on line {} evaluated to false and no else section was defined.",
                        expr.line
                    ))),
                }
            }
            ExprKind::Or(a, b) => {
                let a = self.eval(a, env)?;
                if a.is_true() { Ok(a) } else { self.eval(b, env) }
            }
            ExprKind::And(a, b) => {
                let a = self.eval(a, env)?;
                if a.is_true() { self.eval(b, env) } else { Ok(a) }
            }
            ExprKind::Not(value) => Ok(Value::Bool(!self.eval(value, env)?.is_true())),
            ExprKind::Compare(first, rest) => {
                let mut left = self.eval(first, env)?;
                for (op, right) in rest {
                    let right = self.eval(right, env)?;
                    if !operators::compare(*op, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            ExprKind::Concat(items) => {
                let mut out = String::new();
                for item in items {
                    out.push_str(&self.eval(item, env)?.text()?);
                    text::bounded(out.len())?;
                }
                Ok(Value::str(out))
            }
            ExprKind::Binary(op, a, b) => {
                let a = self.eval(a, env)?;
                let b = self.eval(b, env)?;
                operators::binary(*op, &a, &b)
            }
            ExprKind::Negative(value) => operators::signed(&self.eval(value, env)?, true),
            ExprKind::Positive(value) => operators::signed(&self.eval(value, env)?, false),
            ExprKind::Item(value, key) => {
                let value = self.eval(value, env)?;
                let key = self.eval(key, env)?;
                access::item(&value, &key)
            }
            ExprKind::Slice(slice) => {
                let value = self.eval(&slice.value, env)?;
                let mut bounds = [None, None, None];
                for (bound, expr) in bounds.iter_mut().zip([&slice.start, &slice.stop, &slice.step]) {
                    *bound = expr.as_ref().map(|e| self.eval(e, env)).transpose()?;
                }
                access::slice(&value, bounds)
            }
            ExprKind::Test(test) => {
                let value = self.eval(&test.value, env)?;
                let args = self.eval_args(&test.args, env)?;
                let function = test.function.ok_or_else(|| Fault::new(format!("No test named '{}'.", test.name)))?;
                function(&value, &args).map(Value::Bool)
            }
            // The others are in `eval`.
            _ => Err(Fault::new("an expression of an unknown kind")),
        }
    }

    fn eval_args(&mut self, args: &CallArgs, env: &Shared<Activation>) -> Outcome<Args> {
        let mut out = Args::positional(self.eval_all(&args.positional, env)?);
        if let Some(star) = &args.star {
            let value = self.eval(star, env)?;
            out.positional.extend(access::items(&value)?);
        }
        for (name, value) in &args.named {
            out.named.push((name.clone(), self.eval(value, env)?));
        }
        if let Some(stars) = &args.double_star {
            let value = self.eval(stars, env)?;
            let Value::Dict(dict) = &value else {
                return Err(Fault::new(format!("argument after ** must be a mapping, not {}", value.kind())));
            };
            for (key, value) in &dict.0 {
                let name = key.as_text().ok_or_else(|| Fault::new("keywords must be strings"))?;
                if out.named.iter().any(|(n, _)| n == name) {
                    return Err(Fault::new(format!("got multiple values for keyword argument '{name}'")));
                }
                out.named.push((name.clone(), value.clone()));
            }
        }
        Ok(out)
    }

    fn eval_filter(&mut self, filter: &Filter, env: &Shared<Activation>) -> Outcome<Value> {
        let Some(value) = &filter.value else { return Err(Fault::new("a filter without a value")) };
        let value = self.eval(value, env)?;
        self.apply(filter, value, env)
    }

    fn apply(&mut self, filter: &Filter, value: Value, env: &Shared<Activation>) -> Outcome<Value> {
        let args = self.eval_args(&filter.args, env)?;
        let function = filter.function.ok_or_else(|| Fault::new(format!("No filter named '{}'.", filter.name)))?;
        function(self, value, args)
    }

    /// Filters over `value`, which is what the innermost of them lacks.
    pub fn eval_filter_chain(&mut self, expr: &Expr, value: Value, env: &Shared<Activation>) -> Outcome<Value> {
        let ExprKind::Filter(filter) = &expr.kind else { return Err(Fault::new("a block without a filter")) };
        let value = match &filter.value {
            Some(inner) => self.eval_filter_chain(inner, value, env)?,
            None => value,
        };
        self.apply(filter, value, env).map_err(|f| f.or_at(expr.line))
    }

    /// A call, which is given `caller` if a call block makes it.
    pub fn eval_call(&mut self, expr: &Expr, caller: Option<Value>, env: &Shared<Activation>) -> Outcome<Value> {
        let ExprKind::Call(function, args) = &expr.kind else { return Err(Fault::new("expected call")) };
        let function = self.eval(function, env)?;
        let mut args = self.eval_args(args, env)?;
        if let Some(caller) = caller {
            if args.named.iter().any(|(name, _)| &**name == "caller") {
                return Err(Fault::new("got multiple values for keyword argument 'caller'"));
            }
            args.named.push(("caller".into(), caller));
        }
        self.call(&function, args)
    }

    fn call(&mut self, function: &Value, args: Args) -> Outcome<Value> {
        match function {
            Value::Macro(m) => self.call_macro(m, args).map(Value::str),
            Value::Method(method) => {
                self.read_state |= matches!(method.0, Value::Loop(_));
                methods::call(&method.0, method.1, &args)
            }
            Value::Builtin(builtin) => self.builtin(*builtin, args),
            Value::Loop(state) => {
                let [iterable] = args.bind("loop", ["iterable"])?;
                let recursion = state
                    .recursion
                    .as_ref()
                    .ok_or_else(|| Fault::new("The loop must have the 'recursive' marker to be called recursively."))?;
                let iterable = super::args::required(iterable, "loop", "iterable")?;
                self.recurse(recursion, &iterable, state.depth + 1).map(Value::str)
            }
            Value::Joiner(state) => {
                args.bind_positional::<0>("joiner")?;
                let used = state.1.replace(true);
                Ok(if used { Value::Str(state.0.clone()) } else { Value::str("") })
            }
            Value::Undefined(message) => Err(Fault::new(&**message)),
            other => Err(Fault::new(format!("'{}' object is not callable", other.kind()))),
        }
    }

    /// What a macro writes for these arguments.
    pub fn call_macro(&mut self, called: &Macro, args: Args) -> Outcome<String> {
        let function = &called.function;
        let Args { mut positional, mut named } = args;
        let mut take = |name: &str| {
            let at = named.iter().position(|(n, _)| &**n == name)?;
            Some(named.remove(at).1)
        };
        let count = function.parameters.len();
        let rest = positional.split_off(count.min(positional.len()));
        let mut values: Vec<Option<Value>> = positional.into_iter().map(Some).collect();
        for parameter in &function.parameters[values.len()..] {
            values.push(take(&parameter.name));
        }
        self.enter()?;
        let env = Activation::new(function.slots, Some(called.around.clone()));
        self.open(&function.frame, &env)?;
        if let Some(slot) = function.caller {
            let caller = take("caller").unwrap_or_else(|| Value::undefined("No caller defined"));
            env.set(slot, Some(caller))?;
        }
        if let Some(slot) = function.kwargs {
            let pairs = std::mem::take(&mut named).into_iter().map(|(name, value)| (Value::Str(name), value));
            env.set(slot, Some(Value::Dict(Shared::new(Dict(pairs.collect())))))?;
        } else if let Some((name, _)) = named.first() {
            return Err(Fault::new(format!("macro '{}' takes no keyword argument '{name}'", function.name)));
        }
        if let Some(slot) = function.varargs {
            env.set(slot, Some(Value::tuple(rest)))?;
        } else if !rest.is_empty() {
            return Err(Fault::new(format!("macro '{}' takes not more than {count} argument(s)", function.name)));
        }
        for (parameter, value) in function.parameters.iter().zip(&values) {
            env.set(parameter.slot, value.clone())?;
        }
        let first_default = count - function.defaults.len();
        for (i, parameter) in function.parameters.iter().enumerate().filter(|(i, _)| values[*i].is_none()) {
            let value = match i.checked_sub(first_default) {
                Some(default) => self.eval(&function.defaults[default], &env)?,
                None => Value::undefined(format!("parameter '{}' was not provided", parameter.name)),
            };
            env.set(parameter.slot, Some(value))?;
        }
        let mut out = String::new();
        let flow = self.run(&function.body, &env, &mut out)?;
        debug_assert_eq!(flow, Flow::Next, "the parser lets no loop be left from within a function");
        self.leave();
        text::bounded(out.len())?;
        Ok(out)
    }

    fn builtin(&mut self, builtin: Builtin, args: Args) -> Outcome<Value> {
        match builtin {
            Builtin::Range => access::range(&args),
            Builtin::Dict => dict(args).map(|dict| Value::Dict(Shared::new(dict))),
            Builtin::DictFromKeys => methods::from_keys(&args),
            Builtin::Namespace => {
                let map = dict(args)?;
                if let Some(name) = map.0.iter().filter_map(|(k, _)| k.as_text()).find(|k| k.starts_with('_')) {
                    return Err(Fault::new(format!(
                        "Chat templates cannot store underscore-prefixed attributes on a namespace, but got '{name}'."
                    )));
                }
                Ok(Value::Namespace(Shared::new(RefCell::new(map))))
            }
            Builtin::Cycler if args.positional.is_empty() => Err(Fault::new("at least one item has to be provided")),
            Builtin::Cycler => Ok(Value::Cycler(Shared::new((args.positional, Cell::new(0))))),
            Builtin::Joiner => {
                let [separator] = args.bind("joiner", ["sep"])?;
                let separator = separator.map_or_else(|| Ok(Arc::from(", ")), |s| s.text())?;
                Ok(Value::Joiner(Shared::new((separator, Cell::new(false)))))
            }
            Builtin::Lipsum => Err(Fault::unsupported("`lipsum`, which is random")),
            Builtin::RaiseException => {
                let [message] = args.bind("raise_exception", ["message"])?;
                let message = super::args::required(message, "raise_exception", "message")?;
                Err(Fault::new(&*message.text()?))
            }
            Builtin::StrftimeNow => {
                let [format] = args.bind("strftime_now", ["format"])?;
                let format = super::args::required(format, "strftime_now", "format")?;
                let format = super::args::text_of(&format, "strftime() argument 1")?;
                super::strftime::strftime(self.now, format).map(Value::str)
            }
        }
    }
}

/// The value, once what it took to build it is on the rendering's account.
fn charged(expr: &Expr, value: Value) -> Outcome<Value> {
    let builds = matches!(
        expr.kind,
        ExprKind::Concat(_) | ExprKind::Binary(..) | ExprKind::Call(..) | ExprKind::Filter(_) | ExprKind::Slice(_)
    );
    if builds {
        let length = |value: &Value| value.as_text().map_or(0, |text| text.len());
        shared::built(match &value {
            Value::List(items) | Value::Tuple(items) | Value::View(_, items) => {
                items.iter().map(|item| size_of::<Value>() + length(item)).sum()
            }
            value => length(value),
        })?;
    }
    Ok(value)
}

/// `dict(mapping, **named)` or `dict(pairs, **named)`.
fn dict(args: Args) -> Outcome<Dict> {
    if args.positional.len() > 1 {
        return Err(Fault::new(format!("dict expected at most 1 argument, got {}", args.positional.len())));
    }
    let mut out = Dict::default();
    match args.positional.first() {
        None => {}
        Some(Value::Dict(dict)) => out = (**dict).clone(),
        Some(Value::Undefined(message)) => return Err(Fault::new(&**message)),
        Some(pairs) => {
            for pair in access::items(pairs)? {
                let pair = access::items(&pair)?;
                let [key, value] = pair.as_slice() else {
                    return Err(Fault::new("dictionary update sequence element must have length 2"));
                };
                key.check_hashable()?;
                out.insert(key.clone(), value.clone());
            }
        }
    }
    for (name, value) in args.named {
        out.insert(Value::Str(name), value);
    }
    Ok(out)
}
