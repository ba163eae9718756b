# Information of Cox's partial likelihood at slope 1: Rscript design.R FOLDER design.json
# where FOLDER comes from cases.py. `coxph` with no iteration leaves the slope at 1.
suppressMessages({library(survival); library(jsonlite)})
args <- commandArgs(trailingOnly = TRUE)
cases <- c("lung", "lung_monthly", "gbsg2", "heart")
slope_error <- function(name) {
  d <- read.csv(file.path(args[1], paste0(name, ".csv")))
  y <- if ("entry" %in% names(d)) Surv(d$entry, d$time, d$event) else Surv(d$time, d$event)
  fit <- suppressWarnings(coxph(y ~ risk, d, init = 1, ties = "breslow",
                                control = coxph.control(iter.max = 0)))
  list(slope_error = sqrt(fit$var[1, 1]))
}
out <- setNames(lapply(cases, slope_error), cases)
out$versions <- list(R = R.version.string, survival = as.character(packageVersion("survival")))
write_json(out, args[2], digits = 15, auto_unbox = TRUE, pretty = TRUE)
