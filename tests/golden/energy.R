# Golden values of the energy distance of two samples.
# Usage: Rscript energy.R FOLDER OUT.json (FOLDER as written by energy_cases.py)
suppressPackageStartupMessages({
  library(energy)
  library(jsonlite)
})
arguments <- commandArgs(trailingOnly = TRUE)
cases <- read_json(file.path(arguments[1], "energy_cases.json"), simplifyVector = FALSE)

as_matrix <- function(rows) do.call(rbind, lapply(rows, unlist))

compared <- function(pair) {
  x <- as_matrix(pair[[1]])
  y <- as_matrix(pair[[2]])
  sizes <- c(nrow(x), nrow(y))
  set.seed(20261123)
  test <- eqdist.etest(rbind(x, y), sizes, R = 9999)
  list(statistic = as.numeric(test$statistic), p = test$p.value,
       edist = as.numeric(edist(rbind(x, y), sizes)))
}

values <- lapply(cases, compared)
values$versions <- list(R = as.character(getRversion()),
                        energy = as.character(packageVersion("energy")))
write_json(values, arguments[2], digits = 15, auto_unbox = TRUE, pretty = TRUE)
