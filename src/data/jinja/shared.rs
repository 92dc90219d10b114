//! What values share, however deep they hold each other, and what a walk over them may cost.

use super::fault::{Fault, Outcome};
use std::{
    any::Any,
    cell::{Cell, RefCell},
    ops::Deref,
    rc::Rc,
};

/// How many values within each other are printed, compared or hashed; JSON that is read has 128.
const DEEPEST: usize = 200;
/// How many values a rendering may compare and hash, which a list that holds itself twice, many times over, has no end of.
const MOST_VISITS: u64 = 400_000_000;

/// An [`Rc`] that is dropped in a loop and not in a recursion: a template can put a list into itself a million times.
pub struct Shared<T: 'static>(Option<Rc<T>>);

/// How many bytes of texts and lists it may build in all: kept in a list, they would fill the memory.
const MOST_BUILT: usize = 1 << 29;

thread_local! {
    /// What is to be dropped, while something is.
    static DROPPED: RefCell<Option<Vec<Rc<dyn Any>>>> = const { RefCell::new(None) };
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    static VISITS: Cell<u64> = const { Cell::new(0) };
    static BUILT: Cell<usize> = const { Cell::new(0) };
    /// Whether a walk that could not say so has given up.
    static GAVE_UP: Cell<bool> = const { Cell::new(false) };
}

impl<T> Shared<T> {
    pub fn new(value: T) -> Self {
        Self(Some(Rc::new(value)))
    }

    /// Whether both are one and the same.
    pub fn ptr_eq(a: &Self, b: &Self) -> bool {
        std::ptr::eq(&raw const **a, &raw const **b)
    }
}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // Only `drop` takes it out.
        self.0.as_ref().expect("a value that was dropped")
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let Some(held) = self.0.take().filter(|held| Rc::strong_count(held) == 1) else { return };
        // At the end of a thread there may be no list any more; then `held` is dropped as it is.
        let _ = DROPPED.try_with(|dropped| {
            if let Some(waiting) = dropped.borrow_mut().as_mut() {
                waiting.push(held);
                return;
            }
            *dropped.borrow_mut() = Some(Vec::new());
            let mut next: Option<Rc<dyn Any>> = Some(held);
            while let Some(one) = next {
                drop(one);
                next = dropped.borrow_mut().as_mut().and_then(Vec::pop);
            }
            *dropped.borrow_mut() = None;
        });
    }
}

/// Begins a rendering's account of what its walks cost.
pub fn begin() {
    VISITS.set(0);
    BUILT.set(0);
    DEPTH.set(0);
    GAVE_UP.set(false);
}

/// Counts what a rendering builds.
///
/// # Errors
/// It is more than a conversation can need.
pub fn built(bytes: usize) -> Outcome<()> {
    BUILT.set(BUILT.get().saturating_add(bytes));
    if BUILT.get() > MOST_BUILT {
        return Err(Fault::unsupported(format!("templates that build more than {MOST_BUILT} bytes of values")));
    }
    Ok(())
}

/// A walk's stay in one value: it counts as deeper until it is dropped.
pub struct Visit(());

impl Drop for Visit {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

/// Enters a value that holds others.
///
/// # Errors
/// It lies too deep within others, or too much was compared.
pub fn visit() -> Outcome<Visit> {
    VISITS.set(VISITS.get() + 1);
    if DEPTH.get() >= DEEPEST {
        return Err(Fault::unsupported(format!("values more than {DEEPEST} deep within each other")));
    }
    if VISITS.get() > MOST_VISITS {
        return Err(Fault::unsupported(format!("templates that compare more than {MOST_VISITS} values")));
    }
    DEPTH.set(DEPTH.get() + 1);
    Ok(Visit(()))
}

/// [`visit`] for a comparison, which can only say no: what the expression comes to is then refused by [`complete`].
pub fn visit_to_compare() -> Option<Visit> {
    let visit = visit().ok();
    if visit.is_none() {
        GAVE_UP.set(true);
    }
    visit
}

/// That no comparison has given up.
///
/// # Errors
/// One has: what was computed with it is not what Python computes.
pub fn complete() -> Outcome<()> {
    if GAVE_UP.get() {
        let message = format!("comparisons of values more than {DEEPEST} deep, or of more than {MOST_VISITS} values");
        return Err(Fault::unsupported(message));
    }
    Ok(())
}
