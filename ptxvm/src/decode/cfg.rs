//! Where diverged lanes meet again: the immediate post-dominator of every branch.
//!
//! Cooper, Harvey and Kennedy's iterative algorithm on the reversed control-flow graph of basic blocks, with one
//! virtual exit. Code that cannot reach the end (an endless loop) has no post-dominator; its lanes meet "nowhere".

use super::inst::{END, Inst, Kind};

fn leaders(insts: &[Inst]) -> Vec<u32> {
    let n = insts.len();
    let mut lead = vec![false; n + 1];
    lead[0] = true;
    for (i, inst) in insts.iter().enumerate() {
        match &inst.kind {
            Kind::Bra { target, .. } => {
                lead[*target as usize] = true;
                lead[i + 1] = true;
            }
            Kind::Brx { targets, .. } => {
                targets.iter().for_each(|t| lead[*t as usize] = true);
                lead[i + 1] = true;
            }
            Kind::Exit | Kind::Trap => lead[i + 1] = true,
            _ => {}
        }
    }
    (0..n as u32).filter(|i| lead[*i as usize]).collect()
}

/// Fills in `join` of every branch.
pub(crate) fn join_points(insts: &mut [Inst]) {
    let starts = leaders(insts);
    let blocks = starts.len();
    let exit = blocks;
    let block_of = |pc: u32| starts.partition_point(|s| *s <= pc) - 1;
    let mut succ: Vec<Vec<usize>> = vec![Vec::new(); blocks + 1];
    for (b, out) in succ.iter_mut().enumerate().take(blocks) {
        let last = starts.get(b + 1).map_or(insts.len(), |s| *s as usize) - 1;
        let inst = &insts[last];
        let guarded = inst.guard != super::inst::Pred::TRUE;
        let next = if b + 1 < blocks { b + 1 } else { exit };
        match &inst.kind {
            Kind::Bra { target, .. } => {
                out.push(block_of(*target));
                if guarded {
                    out.push(next);
                }
            }
            Kind::Brx { targets, .. } => {
                out.extend(targets.iter().map(|t| block_of(*t)));
                if guarded {
                    out.push(next);
                }
            }
            // A guarded exit ends some lanes; those that go on define where the others meet.
            Kind::Exit | Kind::Trap if !guarded => out.push(exit),
            _ => out.push(next),
        }
    }
    let mut pred: Vec<Vec<usize>> = vec![Vec::new(); blocks + 1];
    for (b, list) in succ.iter().enumerate() {
        list.iter().for_each(|s| pred[*s].push(b));
    }
    // Postorder of the reversed graph from the exit.
    let mut number = vec![usize::MAX; blocks + 1];
    let mut order = Vec::with_capacity(blocks + 1);
    let mut seen = vec![false; blocks + 1];
    let mut stack = vec![(exit, 0)];
    seen[exit] = true;
    while let Some((node, child)) = stack.pop() {
        if let Some(next) = pred[node].get(child) {
            stack.push((node, child + 1));
            if !seen[*next] {
                seen[*next] = true;
                stack.push((*next, 0));
            }
        } else {
            number[node] = order.len();
            order.push(node);
        }
    }
    let mut idom: Vec<Option<usize>> = vec![None; blocks + 1];
    idom[exit] = Some(exit);
    let mut changed = true;
    while changed {
        changed = false;
        for &b in order.iter().rev().filter(|b| **b != exit) {
            let mut new: Option<usize> = None;
            for &s in &succ[b] {
                if idom[s].is_none() {
                    continue;
                }
                new = Some(match new {
                    None => s,
                    Some(mut x) => {
                        let mut y = s;
                        while x != y {
                            while number[x] < number[y] {
                                x = idom[x].unwrap_or(exit);
                            }
                            while number[y] < number[x] {
                                y = idom[y].unwrap_or(exit);
                            }
                        }
                        x
                    }
                });
            }
            if new.is_some() && idom[b] != new {
                idom[b] = new;
                changed = true;
            }
        }
    }
    for (b, dom) in idom.iter().enumerate().take(blocks) {
        let last = starts.get(b + 1).map_or(insts.len(), |s| *s as usize) - 1;
        let at = match *dom {
            Some(d) if d != exit => starts[d],
            _ => END,
        };
        match &mut insts[last].kind {
            Kind::Bra { join, .. } | Kind::Brx { join, .. } => *join = at,
            _ => {}
        }
    }
}
