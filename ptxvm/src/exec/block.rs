//! One block: its warps in a seeded random order, and its sixteen barriers.

use super::warp::Stop;
use super::{Ctx, Machine, Rng, State, Stopped, Warp};
use crate::decode::inst::{BarOp, ConstRow, END, LaneMask, Special};
use crate::detect::Detect;
use crate::detect::shared::SharedShadow;
use crate::error::FaultKind;
use crate::regs::{LANES, Regs};

/// A warp's arrival at a barrier.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub id: u8,
    /// Threads expected; `None`: the whole block.
    pub count: Option<u32>,
    pub op: BarOp,
    /// Lanes whose predicate is true (reductions).
    pub votes: u32,
    pub lanes: u32,
}

#[derive(Default, Clone)]
struct Barrier {
    /// (warp, clock) of everyone who arrived.
    arrived: Vec<(u32, u32)>,
    waiting: u32,
    threads: u32,
    count: Option<u32>,
    /// Reduction over the arrivals: true votes, lanes.
    votes: u32,
    lanes: u32,
    ops: Vec<(u32, BarOp)>,
}

pub(crate) struct Block<'m> {
    pub ctx: Ctx<'m>,
    warps: Vec<Warp>,
    barriers: Vec<Barrier>,
}

impl<'m> Block<'m> {
    pub fn new(m: &'m Machine<'m>) -> Block<'m> {
        let threads = m.block.iter().product::<u32>();
        let n = threads.div_ceil(32);
        let bytes = (m.code.static_shared + m.dynamic_shared) as usize;
        let shadow = m.detect.shared_shadow().then(|| {
            let mut s = SharedShadow::new(bytes, n as usize);
            s.unwritten = m.detect.uninitialised_shared;
            s.race = m.detect.shared_race;
            s.pending = m.detect.async_copies;
            s
        });
        let warps = (0..n)
            .map(|id| {
                let left = threads - id * 32;
                let exists = if left >= 32 { u32::MAX } else { (1 << left) - 1 };
                Warp {
                    id,
                    regs: Regs::new(m.code.rows as usize, m.code.preds as usize),
                    pc: 0,
                    active: exists,
                    join: END,
                    stack: Vec::new(),
                    exists,
                    live: exists,
                    state: State::Ready,
                    issued: 0,
                    local: vec![0; m.code.local_bytes as usize * LANES],
                    copies: Default::default(),
                    hint: 0,
                }
            })
            .collect();
        Block {
            ctx: Ctx {
                m,
                index: [0; 3],
                number: 0,
                shared: vec![0; bytes],
                shadow,
                count: Default::default(),
                clock: 0,
                rng: Rng::new(0, 0),
            },
            warps,
            barriers: vec![Barrier::default(); 16],
        }
    }

    fn reset(&mut self, number: u64) {
        let m = self.ctx.m;
        let [x, y, _] = m.grid.map(u64::from);
        self.ctx.index = [(number % x) as u32, (number / x % y) as u32, (number / x / y) as u32];
        self.ctx.number = number as u32;
        self.ctx.rng = Rng::new(m.seed, number);
        self.ctx.clock = 0;
        // Fresh memory is all ones: NaN in every float format.
        self.ctx.shared.fill(0xff);
        if let Some(s) = &mut self.ctx.shadow {
            s.reset();
        }
        self.barriers.iter_mut().for_each(|b| *b = Barrier::default());
        for w in &mut self.warps {
            w.pc = 0;
            w.active = w.exists;
            w.live = w.exists;
            w.join = END;
            w.stack.clear();
            w.state = State::Ready;
            w.issued = 0;
            w.copies = Default::default();
            w.local.fill(0xff);
            fill_constants(m, w, self.ctx.index);
        }
    }

    /// Runs block `number` to its end.
    pub fn run(&mut self, number: u64) -> Result<(), Stopped> {
        self.reset(number);
        let m = self.ctx.m;
        let check = m.detect != Detect::NONE;
        let mut ready: Vec<usize> = (0..self.warps.len()).collect();
        while !ready.is_empty() {
            let pick = self.ctx.rng.below(ready.len() as u32) as usize;
            let w = ready[pick];
            let quantum = 1 + self.ctx.rng.below(2 * m.quantum);
            let warp = &mut self.warps[w];
            let stop =
                if check { self.ctx.run::<true>(warp, quantum)? } else { self.ctx.run::<false>(warp, quantum)? };
            match stop {
                Stop::Quantum => {
                    if warp.issued > m.budget {
                        let what =
                            format!("a warp issued {} instructions: a spin lock or an endless loop?", warp.issued);
                        return Err(self.ctx.fault(&self.warps[w], FaultKind::NoProgress, None, None, what));
                    }
                }
                Stop::Barrier(arrival) => self.arrive(w, arrival, &mut ready)?,
                Stop::Done => {
                    self.warps[w].state = State::Done;
                    ready.retain(|r| *r != w);
                    // The barriers expect fewer now.
                    for id in 0..self.barriers.len() {
                        self.complete(id, &mut ready)?;
                    }
                }
            }
        }
        match self.warps.iter().find(|w| matches!(w.state, State::Waiting(_))) {
            None => Ok(()),
            Some(stuck) => Err(self.stuck(stuck)),
        }
    }

    fn stuck(&self, stuck: &Warp) -> Stopped {
        let State::Waiting(id) = stuck.state else { unreachable!("the caller found a waiting warp") };
        let done = self.warps.iter().filter(|w| w.state == State::Done).count();
        let elsewhere = self.warps.iter().filter(|w| matches!(w.state, State::Waiting(o) if o != id)).count();
        let b = &self.barriers[id as usize];
        let what = format!(
            "barrier {id} waits for ever: {} of {} warps arrived, {done} have exited, {elsewhere} wait at other barriers",
            b.arrived.len(),
            self.warps.len()
        );
        let kind = if elsewhere == 0 { FaultKind::BarrierDivergence } else { FaultKind::NoProgress };
        // The program counter already stands behind the barrier.
        self.ctx.fault_at(stuck.id, stuck.pc.saturating_sub(1), kind, None, None, what)
    }

    fn arrive(&mut self, w: usize, a: Arrival, ready: &mut Vec<usize>) -> Result<(), Stopped> {
        let b = &mut self.barriers[a.id as usize];
        let clash = !b.arrived.is_empty() && b.count != a.count;
        let again = b.arrived.iter().any(|(o, _)| *o == w as u32);
        if clash || again {
            let what = if clash { "the warps name different thread counts" } else { "a warp arrives twice" };
            let what = format!("barrier {}: {what}", a.id);
            return Err(self.ctx.fault_at(
                w as u32,
                self.warps[w].pc - 1,
                FaultKind::BarrierDivergence,
                None,
                None,
                what,
            ));
        }
        // Who waits touches nothing until the barrier completes; only bare arrivals need a tick of their own.
        let now = self.ctx.shadow.as_mut().map_or(0, |s| s.arrive(a.op == BarOp::Arrive));
        b.count = a.count;
        b.arrived.push((w as u32, now));
        b.threads += 32;
        b.votes += a.votes.count_ones();
        b.lanes += a.lanes.count_ones();
        if a.op != BarOp::Arrive {
            b.waiting |= 1 << w;
            b.ops.push((w as u32, a.op));
            self.warps[w].state = State::Waiting(a.id);
            ready.retain(|r| *r != w);
        }
        self.complete(a.id as usize, ready)
    }

    fn complete(&mut self, id: usize, ready: &mut Vec<usize>) -> Result<(), Stopped> {
        let strict = self.ctx.m.detect.barrier_divergence;
        let b = &self.barriers[id];
        if b.arrived.is_empty() {
            return Ok(());
        }
        let alive = self.warps.iter().filter(|w| strict || w.state != State::Done).count() as u32;
        let expected = b.count.unwrap_or(32 * alive);
        if b.threads < expected {
            return Ok(());
        }
        let b = std::mem::take(&mut self.barriers[id]);
        self.ctx.count.barriers += 1;
        if let Some(s) = &mut self.ctx.shadow {
            // Everybody waited: this orders all that went before. Warps that ended touch nothing any more, but what
            // they did without arriving is not ordered.
            if b.waiting.count_ones() as usize == self.warps.len() {
                s.full_barrier();
            } else {
                s.partial_barrier(&b.arrived, b.waiting);
            }
        }
        for (w, op) in b.ops {
            let warp = &mut self.warps[w as usize];
            let lanes = warp.active;
            match op {
                BarOp::Popc(d) => {
                    for l in super::each(lanes) {
                        warp.regs.r32_mut(d)[l] = b.votes;
                    }
                }
                BarOp::RedAnd(p) => warp.regs.set_pred(p, if b.votes == b.lanes { u32::MAX } else { 0 }, lanes),
                BarOp::RedOr(p) => warp.regs.set_pred(p, if b.votes > 0 { u32::MAX } else { 0 }, lanes),
                BarOp::Sync | BarOp::Arrive => {}
            }
            warp.state = State::Ready;
            ready.push(w as usize);
        }
        Ok(())
    }
}

fn fill_constants(m: &Machine<'_>, w: &mut Warp, index: [u32; 3]) {
    let [bx, by, bz] = m.block;
    let thread = |l: usize| {
        let t = w.id * 32 + l as u32;
        [t % bx, t / bx % by, t / bx / by]
    };
    for (slot, c) in &m.code.consts {
        let row = match *c {
            ConstRow::Imm64(v) => {
                w.regs.r64_mut(*slot).fill(v);
                continue;
            }
            ConstRow::Var(i, off) => {
                w.regs.r64_mut(*slot).fill(m.vars[i as usize].wrapping_add(off as u64));
                continue;
            }
            ConstRow::Imm32(v) => [v; LANES],
            ConstRow::Special(s) => match s {
                Special::Tid(a) => std::array::from_fn(|l| thread(l)[a as usize]),
                Special::Ntid(a) => [m.block[a as usize]; LANES],
                Special::Ctaid(a) => [index[a as usize]; LANES],
                Special::Nctaid(a) => [m.grid[a as usize]; LANES],
                Special::Lane => std::array::from_fn(|l| l as u32),
                Special::Warp => [w.id; LANES],
                Special::Nwarp => [(bx * by * bz).div_ceil(32); LANES],
                Special::LaneMask(kind) => std::array::from_fn(|l| {
                    let (eq, lt) = (1u32 << l, (1u32 << l) - 1);
                    match kind {
                        LaneMask::Eq => eq,
                        LaneMask::Lt => lt,
                        LaneMask::Le => lt | eq,
                        LaneMask::Gt => !(lt | eq),
                        LaneMask::Ge => !lt,
                    }
                }),
                Special::DynamicShared => [m.dynamic_shared; LANES],
                Special::TotalShared => [m.dynamic_shared + m.code.static_shared; LANES],
                Special::Zero => [0; LANES],
            },
        };
        *w.regs.r32_mut(*slot) = row;
    }
}
