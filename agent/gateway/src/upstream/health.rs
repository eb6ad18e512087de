//! Active health checks: one looks for all workers, on the way that requests take.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_net::tasks::spawn_local;
use agent_state::Snapshot;
use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::connect::Dialer;
use super::group::Group;
use super::groups::Groups;
use super::list::{Member, Vital};
use super::probe;
use crate::plan::Plan;
use crate::tuning::HealthCheck;

/// Checks under way at a time; the others wait for their turn.
const MAX_AT_A_TIME: usize = 32;

/// Who is checked, and how it went.
pub(crate) struct Checks {
    dialer: Rc<Dialer>,
    plan: Arc<ArcSwap<Plan>>,
    at_a_time: Arc<Semaphore>,
    /// By id of the endpoint.
    known: HashMap<u64, Rc<RefCell<Check>>>,
}

/// The checks of one endpoint.
struct Check {
    next: Instant,
    is_under_way: bool,
    /// Answers or failures in a row; which of them is `is_good`.
    in_a_row: u32,
    is_good: bool,
}

impl Checks {
    pub(crate) fn new(dialer: Dialer, plan: Arc<ArcSwap<Plan>>) -> Self {
        Self {
            dialer: Rc::new(dialer),
            plan,
            at_a_time: Arc::new(Semaphore::new(MAX_AT_A_TIME)),
            known: HashMap::new(),
        }
    }

    /// Begins what is due. Has to be called within a `LocalSet`, now and then.
    pub(crate) fn run(&mut self, groups: &Groups, snapshot: &Snapshot, now: Instant) {
        let mut before = std::mem::take(&mut self.known);
        for group in groups.checked(snapshot) {
            let (list, _) = group.list();
            let Some(settings) = &list.settings.health else {
                continue;
            };
            for member in &list.members {
                let id = member.vital.id;
                let check = before.remove(&id).unwrap_or_else(|| Check::new(now));
                self.begin(&group, member, settings, &check, now);
                self.known.insert(id, check);
            }
        }
    }

    fn begin(
        &self,
        group: &Arc<Group>,
        member: &Member,
        settings: &HealthCheck,
        check: &Rc<RefCell<Check>>,
        now: Instant,
    ) {
        if check.borrow().is_under_way || check.borrow().next > now {
            return;
        }
        let Ok(permit) = Arc::clone(&self.at_a_time).try_acquire_owned() else {
            return;
        };
        {
            let mut check = check.borrow_mut();
            check.is_under_way = true;
            let jitter = settings.interval.mul_f64(0.1 * rand::random::<f64>());
            check.next = now + settings.interval + jitter;
        }
        let (group, member) = (Arc::clone(group), member.clone());
        let (settings, check) = (settings.clone(), Rc::clone(check));
        let (dialer, plan) = (Rc::clone(&self.dialer), self.plan.load_full());
        spawn_local(async move {
            let _permit = permit;
            let of = (group.service(), group.port());
            let tls = match plan.origination(of.0, of.1) {
                None => None,
                Some(Ok(tls)) => Some(tls),
                // Nobody is reached; that is not the endpoint's illness.
                Some(Err(_)) => return check.borrow_mut().is_under_way = false,
            };
            let asked = probe::ask(&dialer, &member, tls, &settings, of);
            let asked = timeout(settings.timeout, asked).await;
            let answer = asked.unwrap_or_else(|_| Err(too_late(settings.timeout)));
            check
                .borrow_mut()
                .note(answer.is_ok(), &settings, &member.vital)
                .then(|| group.health_changed(&member, answer.err().as_deref()));
        });
    }
}

fn too_late(limit: Duration) -> String {
    format!("no answer within {limit:?}")
}

impl Check {
    fn new(now: Instant) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            next: now,
            is_under_way: false,
            in_a_row: 0,
            is_good: true,
        }))
    }

    /// Takes the outcome of a check. True when the endpoint is well now and was not, or the other
    /// way round.
    fn note(&mut self, is_good: bool, settings: &HealthCheck, vital: &Vital) -> bool {
        self.is_under_way = false;
        if self.is_good != is_good {
            self.in_a_row = 0;
        }
        self.is_good = is_good;
        self.in_a_row = self.in_a_row.saturating_add(1);
        let enough = match is_good {
            true => settings.healthy,
            false => settings.unhealthy,
        };
        self.in_a_row >= enough.max(1) && vital.set_well(is_good)
    }
}
